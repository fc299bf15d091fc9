"""Packing puts every sample into one row, and no two rows fit into one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith_stages.data.packing import pack

MAX_LENGTH = 8
lengths = st.lists(st.integers(1, MAX_LENGTH), max_size=60)


@given(lengths=lengths, seed=st.integers(0, 2**32 - 1))
def test_every_sample_is_in_one_row_and_no_row_is_too_long(lengths: list[int], seed: int) -> None:
    rows = pack(lengths, MAX_LENGTH, seed)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(1 <= sum(lengths[index] for index in row) <= MAX_LENGTH for row in rows)


@given(lengths=lengths)
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    sums = [sum(lengths[index] for index in row) for row in pack(lengths, MAX_LENGTH, seed=0)]
    assert all(one + other > MAX_LENGTH for one, other in combinations(sums, 2))


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        pytest.param([6, 5, 4, 3], [[0, 2], [1, 3]], id="one fills a row"),
        pytest.param([6, 3, 2, 1], [[0, 1, 3], [2]], id="the longest that fits"),
        pytest.param([9, 6, 4, 3], [[0], [1, 2], [3]], id="one before two"),
        pytest.param([5, 4, 3, 2], [[0, 2, 3], [1]], id="two rather than the longest alone"),
        pytest.param([4, 5, 2, 2, 3, 4], [[0, 3, 5], [1, 2, 4]], id="and so the next one too"),
        pytest.param([4, 3, 3, 3], [[0, 1, 2], [3]], id="two alike"),
        pytest.param([4, 5, 3], [[0, 1], [2]], id="not one twice"),
    ],
)
def test_rows_are_filled_completely_if_possible(lengths: list[int], rows: list[list[int]]) -> None:
    assert sorted(map(sorted, pack(lengths, 10, seed=0))) == rows


@pytest.mark.parametrize("max_length", [1024, 2048, 4096])
def test_packed_conversations_leave_at_most_a_thousandth_empty(max_length: int) -> None:
    """The lengths are lognormal as in chat data, with few short ones."""
    drawn = np.exp(np.random.default_rng(7).normal(5.4, 0.8, 30_000)).astype(int) + 38
    lengths = np.minimum(drawn, max_length).tolist()
    assert sum(lengths) / (len(pack(lengths, max_length, seed=1)) * max_length) >= 0.999


def test_the_seed_determines_only_the_order_of_the_rows() -> None:
    lengths = [17 + number % 16 for number in range(50)]
    first, same, other = (pack(lengths, 32, seed) for seed in (1, 1, 2))
    assert first == same != other
    assert sorted(first) == sorted(other)
    assert [lengths[row[0]] for row in first] != sorted(lengths, reverse=True)
