"""Which rows form which batch: one order per seed, however a step's rows are spread over batches and devices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler


class SeededBatchSampler(Sampler[list[int]]):
    """The micro-batches of one epoch, as one of several processes takes them.

    Every epoch is a new permutation of all rows, cut into optimizer steps. Within a step the rows are sorted by length,
    so that a micro-batch holds rows of like length: less padding, and the step's gradient stays the same sum. The
    processes take turns at the step's micro-batches, so that those they work on at the same time are of like length.
    Each takes as many: in an epoch's last step some may be empty.

    :param lengths: tokens per row.
    :param rows_per_step: rows of an optimizer step, over all processes; an epoch's last step takes what is left.
    :param rows_per_batch: most rows of a micro-batch.
    :param rank: this process's among `world_size`.
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
        """Choose the epoch that is iterated next."""
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
        """Tokens, without padding, in the first steps of the whole training."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        tokens = epochs * int(self.lengths.sum())
        return tokens + int(self._tokens_after_steps(epochs)[steps - 1]) if steps else tokens

    def epochs_until(self, step: int) -> float:
        """Passes over the rows, whole and begun, in the first steps of the whole training."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs + steps * self.rows_per_step / len(self.lengths)

    def _count_tokens_after_steps(self, epoch: int) -> NDArray[np.int64]:
        lengths = self.lengths[self._permutation(epoch)]
        return np.add.reduceat(lengths, np.arange(0, len(lengths), self.rows_per_step)).cumsum()

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return permutation(len(self.lengths), self.seed, epoch)


def permutation(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of all rows in an epoch."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    return torch.randperm(rows, generator=generator).numpy()


def mixed_seed(seed: int, number: int) -> int:
    """A seed of its own for a number: torch's generator takes 32 bits of a seed, so both are mixed into them."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def batches_of_rank(rows: list[int], rows_per_batch: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """One rank's batches of some rows. All ranks get the same number of batches; the last may be empty."""
    for first in range(0, len(rows), rows_per_batch * world_size):
        begin = first + rank * rows_per_batch
        yield rows[begin : begin + rows_per_batch]
