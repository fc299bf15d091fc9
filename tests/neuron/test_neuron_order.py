"""Which rows a step takes follows from seed and step alone, however many processes share it and wherever it goes on."""

from __future__ import annotations

from itertools import chain

import pytest
from torch.utils.data import Dataset

from airsmith_stages.neuron.order import StepOrder


class Numbers(Dataset[int]):
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


def order(turn: int = 0, turns: int = 1, seed: int = 7, first: int = 0, last: int = 9) -> StepOrder:
    made = StepOrder(Numbers(27), rows_per_step=8, rows_per_batch=2, seed=seed, turn=turn, turns=turns)
    made.between(first, last)
    return made


def steps(of: list[int], size: int) -> list[list[int]]:
    return [of[begin : begin + size] for begin in range(0, len(of), size)]


def test_an_epoch_is_whole_steps_of_rows_that_come_once() -> None:
    rows = list(order())
    assert len(rows) == len(order()) == 9 * 8
    for epoch in range(3):
        taken = rows[epoch * 24 : (epoch + 1) * 24]
        assert len(set(taken)) == 24
    assert set(rows[:24]) != set(rows[24:48])  # Others are dropped.
    assert (order().steps_per_epoch, order().rows_dropped) == (3, 3)


def test_the_seed_decides_and_the_library_s_epoch_does_not() -> None:
    assert list(order(seed=8)) != list(order())
    one = order()
    one.set_epoch(5)
    assert list(one) == list(order())


@pytest.mark.parametrize("turns", [2, 4])
def test_processes_share_each_step(turns: int) -> None:
    alone = steps(list(order()), 8)
    shared = [steps(list(order(turn, turns)), 8 // turns) for turn in range(turns)]
    for step, rows in enumerate(alone):
        assert sorted(rows) == sorted(chain.from_iterable(part[step] for part in shared))
        assert sorted(rows) == sorted(order().step_rows(step))


@pytest.mark.parametrize("first", [1, 3, 7, 9])
def test_it_goes_on_where_another_has_stopped(first: int) -> None:
    assert list(order(last=first)) + list(order(first=first)) == list(order())
    assert len(order(first=first)) == (9 - first) * 8
