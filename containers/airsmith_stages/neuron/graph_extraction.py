"""A training's first steps for the sake of their graphs: its own trainer and arguments, on rows of its shape.

Inside `neuron_parallel_compile` nothing is computed: each graph is written down, and what comes out of it is arbitrary.
So nothing is made of the numbers. The steps go through all that makes graphs of its own: a cycle of accumulation, a
step that is logged and one that is not, and the first of a warm-up, whose rate is 0. Not run on a device.
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
LOGGED_EVERY = 5
"""Steps between two that are logged, where the recipe logs less often: some that are and some that are not."""
_PAD = 0


class GraphExtraction(WarmRestartingTrainer):
    """The training's trainer, to which no number means anything."""

    def log(self, logs: dict[str, float]) -> None:
        """Leave the numbers aside."""


class SyntheticRows(Dataset[Row]):
    """Rows of one length that hold arbitrary tokens, all of them labels.

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
    """Take some steps of the training that a run plans."""
    recipe = context.spec.recipe
    length = recipe.dataset.max_length
    with neuron_errors():
        arguments = make_arguments(context, STEPS, saves=False)
        arguments.logging_steps = min(arguments.logging_steps, LOGGED_EVERY)
        distributed = DistributedContext.from_environment(device.process_group_backend)
        model = load_model(distributed.once_per_node(lambda: context.fetch("mirror_model")), recipe, arguments)
        seed_steps(recipe.training.seed, 0)
        rows = SyntheticRows(recipe.training.total_train_batch_size, length, model.config.vocab_size)
        trainer_context = TrainerContext(distributed, Interruption(), context.scratch, is_adapter=model.is_adapter)
        collator = StaticCollator(Collator(_PAD, isolate_samples=False), length)
        GraphExtraction(model.module, arguments, rows, collator, trainer_context).train()
