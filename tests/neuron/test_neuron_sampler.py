"""A step's rows depend only on seed and step, not on the number of ranks or the step to resume from."""

from __future__ import annotations

from itertools import chain

import pytest
from torch.utils.data import Dataset

from airsmith_stages.neuron.sampler import StepSampler


class Numbers(Dataset[int]):
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


def sampler(rank: int = 0, world_size: int = 1, seed: int = 7, first: int = 0, last: int = 9) -> StepSampler:
    step_sampler = StepSampler(
        Numbers(27), rows_per_step=8, rows_per_batch=2, seed=seed, rank=rank, world_size=world_size
    )
    step_sampler.set_steps(first, last)
    return step_sampler


def split_into_steps(rows: list[int], size: int) -> list[list[int]]:
    return [rows[begin : begin + size] for begin in range(0, len(rows), size)]


def test_an_epoch_has_full_steps_of_distinct_rows() -> None:
    rows = list(sampler())
    assert len(rows) == len(sampler()) == 9 * 8
    for epoch in range(3):
        taken = rows[epoch * 24 : (epoch + 1) * 24]
        assert len(set(taken)) == 24
    assert set(rows[:24]) != set(rows[24:48])  # Every epoch drops other rows.
    assert (sampler().steps_per_epoch, sampler().rows_dropped) == (3, 3)


def test_the_order_depends_on_the_seed_and_not_on_the_library_s_epoch() -> None:
    assert list(sampler(seed=8)) != list(sampler())
    one = sampler()
    one.set_epoch(5)
    assert list(one) == list(sampler())


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_step(world_size: int) -> None:
    alone = split_into_steps(list(sampler()), 8)
    shared = [split_into_steps(list(sampler(rank, world_size)), 8 // world_size) for rank in range(world_size)]
    for step, rows in enumerate(alone):
        assert sorted(rows) == sorted(chain.from_iterable(part[step] for part in shared))
        assert sorted(rows) == sorted(sampler().step_rows(step))


@pytest.mark.parametrize("first", [1, 3, 7, 9])
def test_a_resumed_sampler_continues_the_order(first: int) -> None:
    assert list(sampler(last=first)) + list(sampler(first=first)) == list(sampler())
    assert len(sampler(first=first)) == (9 - first) * 8
