"""The type of the device."""

import os


def get_platform_target():
    return os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
