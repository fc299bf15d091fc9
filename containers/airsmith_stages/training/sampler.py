"""Samples batches in an order that depends only on the seed, not on the number of batches per step or of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler


class SeededBatchSampler(Sampler[list[int]]):
    """Samples one rank's micro-batches of one epoch.

    Every epoch is a new permutation of all rows, split into optimizer steps. Within a step, rows are sorted by length,
    so that a micro-batch contains rows of similar length: this reduces padding and does not change the step's gradient,
    which is a sum. The micro-batches of a step are distributed round-robin, so that all ranks compute batches of
    similar length at the same time. All ranks get the same number of batches, of which some may be empty in an epoch's
    last step.

    :param lengths: tokens per row.
    :param rows_per_step: rows of an optimizer step, over all ranks; an epoch's last step may have fewer.
    :param rows_per_batch: maximum number of rows of a micro-batch.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        rows_per_step: int,
        rows_per_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths = lengths
        self.rows_per_step = rows_per_step
        self.rows_per_batch = rows_per_batch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._tokens_after_steps = lru_cache(maxsize=1)(self._count_tokens_after_steps)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.lengths) // self.rows_per_step)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        permutation = self._permutation(self.epoch)
        for start in range(0, len(permutation), self.rows_per_step):
            rows = permutation[start : start + self.rows_per_step]
            longest_first = rows[np.argsort(-self.lengths[rows], kind="stable")].tolist()
            yield from batches_of_rank(longest_first, self.rows_per_batch, self.rank, self.world_size)

    def __len__(self) -> int:
        whole_steps, rest = divmod(len(self.lengths), self.rows_per_step)
        rows_per_round = self.rows_per_batch * self.world_size
        return whole_steps * -(-self.rows_per_step // rows_per_round) + -(-rest // rows_per_round)

    def tokens_until(self, step: int) -> int:
        """Number of tokens, without padding, in the first steps of the training."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        tokens = epochs * int(self.lengths.sum())
        return tokens + int(self._tokens_after_steps(epochs)[steps - 1]) if steps else tokens

    def epochs_until(self, step: int) -> float:
        """Number of epochs, with fraction, in the first steps of the training."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs + steps * self.rows_per_step / len(self.lengths)

    def _count_tokens_after_steps(self, epoch: int) -> NDArray[np.int64]:
        lengths = self.lengths[self._permutation(epoch)]
        return np.add.reduceat(lengths, np.arange(0, len(lengths), self.rows_per_step)).cumsum()

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return permutation(len(self.lengths), self.seed, epoch)


def permutation(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of all rows in an epoch."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    return torch.randperm(rows, generator=generator).numpy()


def mixed_seed(seed: int, number: int) -> int:
    """Derive a seed from a seed and a number. torch's generator uses only 32 bits of a seed, so both are hashed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def batches_of_rank(rows: list[int], rows_per_batch: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """One rank's batches of some rows. All ranks get the same number of batches; the last may be empty."""
    for first in range(0, len(rows), rows_per_batch * world_size):
        begin = first + rank * rows_per_batch
        yield rows[begin : begin + rows_per_batch]
