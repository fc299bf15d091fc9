"""Packing puts every sample into one row, and no two rows where one would do."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from airsmith_stages.data.packing import pack

LONGEST = 8
lengths = st.lists(st.integers(1, LONGEST), max_size=60)


@given(lengths=lengths, seed=st.integers(0, 2**32 - 1))
def test_every_sample_stands_in_one_row_and_no_row_is_too_long(lengths: list[int], seed: int) -> None:
    rows = pack(lengths, LONGEST, seed)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(1 <= sum(lengths[index] for index in row) <= LONGEST for row in rows)


@given(lengths=lengths)
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    sums = [sum(lengths[index] for index in row) for row in pack(lengths, LONGEST, seed=0)]
    assert all(one + other > LONGEST for one, other in combinations(sums, 2))


def test_the_fullest_row_that_has_room_is_taken() -> None:
    rows = pack([6, 5, 4, 3], 10, seed=0)
    assert sorted(map(sorted, rows)) == [[0, 2], [1, 3]]


def test_the_seed_decides_the_order_of_the_rows_and_nothing_else() -> None:
    lengths = [17 + number % 16 for number in range(50)]
    first, same, other = (pack(lengths, 32, seed) for seed in (1, 1, 2))
    assert first == same != other
    assert sorted(first) == sorted(other)
    assert [lengths[row[0]] for row in first] != sorted(lengths, reverse=True)
