"""Batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def longest_first(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches, from the longest rows to the shortest."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for start in range(0, len(order), size):
        yield order[start : start + size]
