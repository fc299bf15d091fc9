"""Batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def longest_first(lengths: Sequence[int], max_rows: int, max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches, from the longest rows to the shortest: memory that does not suffice is noticed at once.

    :param max_tokens: per batch, padding included; a row that is longer than that comes alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        size = max(1, min(max_rows, max_tokens // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size
