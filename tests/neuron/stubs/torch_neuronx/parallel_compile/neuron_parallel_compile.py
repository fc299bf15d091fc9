"""The tool that compiles what a launch would run; tests have a script for it."""

import logging

LOGGER = logging.getLogger("Neuron")


def main():
    raise NotImplementedError("Nothing is compiled on a CPU")
