"""The tool that compiles a launch's graphs; tests replace it by a script."""

import logging

LOGGER = logging.getLogger("Neuron")


def main():
    raise NotImplementedError("Nothing is compiled on a CPU")
