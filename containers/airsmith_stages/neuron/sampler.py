"""Samples each rank's rows of each step, full batches only, from any step to the last in one pass."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.training.rows import Row
from airsmith_stages.training.sampler import batches_of_rank, permutation

log = logging.getLogger("airsmith")


class StepSampler(DistributedSampler[Row]):
    """Samples the rows of one data-parallel rank, batch after batch.

    Every epoch is a new permutation of all rows, split into optimizer steps; the remaining rows, which do not fill a
    step, are dropped. It is a DistributedSampler because the library replaces other samplers by one that ignores the
    seed. The library always starts at epoch 0: here, all epochs are one pass, which starts at any step.

    :param rows_per_step: rows of an optimizer step, over all ranks.
    :param rows_per_batch: rows of a micro-batch; a divisor of each rank's rows per step.
    :param rank: the data-parallel rank.
    :param world_size: number of data-parallel ranks.
    """

    def __init__(
        self, rows: Dataset[Row], rows_per_step: int, rows_per_batch: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(rows, num_replicas=world_size, rank=rank, seed=seed, drop_last=True)
        self.rows_per_step = rows_per_step
        self.rows_per_batch = rows_per_batch
        self.first_step, self.last_step = 0, 0
        self._permutation = lru_cache(maxsize=2)(self._permute)

    @property
    def row_count(self) -> int:
        """Rows of the split."""
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.row_count // self.rows_per_step

    @property
    def rows_dropped(self) -> int:
        """Number of rows dropped per epoch; different rows in each epoch."""
        return self.row_count % self.rows_per_step

    def set_steps(self, first_step: int, last_step: int) -> None:
        """Set the range of steps to iterate over."""
        self.first_step, self.last_step = first_step, last_step

    def step_rows(self, step: int) -> list[int]:
        """The rows of a step, counted from 0, over all ranks."""
        epoch, position = divmod(step, self.steps_per_epoch)
        begin = position * self.rows_per_step
        rows: list[int] = self._permutation(epoch)[begin : begin + self.rows_per_step].tolist()
        return rows

    def epochs_until(self, step: int) -> float:
        """Number of epochs, with fraction, in the first steps of the training."""
        return step / self.steps_per_epoch

    def __iter__(self) -> Iterator[int]:
        for step in range(self.first_step, self.last_step):
            for batch in batches_of_rank(self.step_rows(step), self.rows_per_batch, self.rank, self.num_replicas):
                yield from batch

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.rows_per_step // self.num_replicas

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        return permutation(self.row_count, self.seed, epoch)


def total_steps(spec: RunSpec, rows: int) -> int:
    """Number of optimizer steps of a training. Logs the number of rows that each epoch drops.

    :raises AirsmithError: `bad_data` if the rows do not fill one step.
    """
    training = spec.recipe.training
    rows_per_step = training.total_train_batch_size
    if rows < rows_per_step:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"The train split has {rows} rows, fewer than the {rows_per_step} of training.total_train_batch_size: on "
            "Neuron all batches have the same size, and incomplete batches are dropped.",
            f"Lower training.total_train_batch_size to {rows} or less, or use more data.",
        )
    if rows % rows_per_step:
        log.info("Dropping %d of %d rows in each epoch, which do not fill a step", rows % rows_per_step, rows)
    if training.max_steps is not None:
        return training.max_steps
    return math.ceil(rows // rows_per_step * (training.epochs or 1.0))
