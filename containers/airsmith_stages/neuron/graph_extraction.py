"""Extracts a training's graphs: runs its first steps with its trainer and arguments, on rows of its shape.

Inside `neuron_parallel_compile` nothing is computed: each graph is recorded, and its outputs are arbitrary and ignored.
The steps cover everything that creates a separate graph: a cycle of gradient accumulation, steps with and without
logging, and the first warm-up step, whose learning rate is 0. Not run on a device.
"""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from airsmith_stages.devices import Device
from airsmith_stages.neuron.errors import neuron_errors
from airsmith_stages.neuron.model import load_model, seed_steps
from airsmith_stages.neuron.rows import StaticCollator
from airsmith_stages.neuron.trainer import TrainerContext, WarmRestartingTrainer
from airsmith_stages.neuron.training import make_arguments
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.interruption import Interruption
from airsmith_stages.training.rows import Collator, Row

STEPS = 10
MAX_LOGGING_STEPS = 5
"""Upper limit of `logging_steps`, so that some of the steps are logged and some are not."""
_PAD = 0


class GraphExtraction(WarmRestartingTrainer):
    """The training's trainer without checks of its numbers."""

    def log(self, logs: dict[str, float]) -> None:
        """Ignore the numbers."""


class SyntheticRows(Dataset[Row]):
    """Rows of equal length with arbitrary tokens, all of which are labels.

    :ivar lengths: tokens per row.
    """

    def __init__(self, rows: int, length: int, vocabulary: int) -> None:
        self._tokens = (np.arange(length) % vocabulary).astype(np.uint32)
        self.lengths = np.full(rows, length, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Row:
        return Row(self._tokens, np.ones(len(self._tokens), dtype=np.uint8), np.zeros(1, dtype=np.int64))


def extract_graphs(context: StageContext, device: Device) -> None:
    """Run the first steps of a run's training."""
    recipe = context.spec.recipe
    length = recipe.dataset.max_length
    with neuron_errors():
        arguments = make_arguments(context, STEPS, saves=False)
        arguments.logging_steps = min(arguments.logging_steps, MAX_LOGGING_STEPS)
        distributed = DistributedContext.from_environment(device.process_group_backend)
        model = load_model(distributed.once_per_node(lambda: context.fetch("mirror_model")), recipe, arguments)
        seed_steps(recipe.training.seed, 0)
        rows = SyntheticRows(recipe.training.total_train_batch_size, length, model.config.vocab_size)
        trainer_context = TrainerContext(distributed, Interruption(), context.scratch, is_adapter=model.is_adapter)
        collator = StaticCollator(Collator(_PAD, isolate_samples=False), length)
        GraphExtraction(model.module, arguments, rows, collator, trainer_context).train()
