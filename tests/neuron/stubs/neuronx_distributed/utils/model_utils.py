"""The type of the device that a model is moved to."""

from __future__ import annotations

import os
from enum import Enum


class LogicalNCConfig(Enum):
    LNC_1 = 1
    LNC_2 = 2


def get_platform_lnc():
    return LogicalNCConfig(int(os.environ.get("NEURON_LOGICAL_NC_CONFIG", "1")))


def move_model_to_device(model, device):
    model.to(device)
