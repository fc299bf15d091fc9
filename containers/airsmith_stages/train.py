"""Stage `train`: the base model learns the rows, and what was trained is published: an adapter or a whole model."""

from __future__ import annotations

import importlib
from typing import Protocol

from airsmith.contracts.cache import Output
from airsmith_stages.accelerators import Accelerator, get_accelerator
from airsmith_stages.frame import StageContext


class TrainingModule(Protocol):
    """A module that trains on one kind of accelerator."""

    def train(self, context: StageContext, accelerator: Accelerator) -> Output:
        """Train to the last step and publish what was trained."""


def run(context: StageContext) -> Output:
    """Train to the last step, from the newest checkpoint where there is one."""
    accelerator = get_accelerator(context.spec.recipe.backend.name)
    accelerator.prepare()
    # It imports torch, and `prepare` has to come before that.
    module: TrainingModule = importlib.import_module(accelerator.training_module)
    return module.train(context, accelerator)
