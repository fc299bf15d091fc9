"""Stage `train`: trains the base model on the tokens and publishes an adapter or a whole model."""

from __future__ import annotations

import importlib
from typing import Protocol

from airsmith.contracts.cache import Output
from airsmith_stages.devices import Device, get_device
from airsmith_stages.stage_context import StageContext


class TrainingModule(Protocol):
    """A module that trains on one kind of device."""

    def train(self, context: StageContext, device: Device) -> Output:
        """Train to the last step and publish the result."""


def run(context: StageContext) -> Output:
    """Train to the last step, from the newest checkpoint if one exists."""
    device = get_device(context.spec.recipe.backend.name)
    device.prepare()
    # The module imports torch, which must happen after `prepare`.
    module: TrainingModule = importlib.import_module(device.training_module)
    return module.train(context, device)
