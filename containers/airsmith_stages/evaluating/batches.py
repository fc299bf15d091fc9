"""Batch rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def longest_first(lengths: Sequence[int], max_rows: int, max_tokens: int) -> Iterator[list[int]]:
    """Batches of indices, from the longest rows to the shortest, so that out-of-memory errors occur early.

    :param max_tokens: tokens per batch, including padding; a longer row has its own batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        size = max(1, min(max_rows, max_tokens // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size
