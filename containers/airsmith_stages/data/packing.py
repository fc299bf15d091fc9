"""Pack samples into as few rows as possible: the longest first, then those that fill the rest of a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int], max_length: int, seed: int) -> list[list[int]]:
    """Rows of sample indices whose total length fits `max_length`; every sample is in exactly one row.

    Each step takes the longest sample that fits. If no sample would fit after it, two samples that fill the row exactly
    are preferred: best-fit decreasing, which considers one sample at a time, leaves several times as much
    space empty if few samples are short. Rows are returned in a seeded order, because they are built from long samples
    to short ones.
    """
    left = _UnpackedSamples(lengths, max_length)
    rows: list[list[int]] = []
    while longest := left.longest(max_length):
        row = [left.take(longest)]
        room = max_length - longest
        while chosen := left.best_for(room):
            row += [left.take(length) for length in chosen]
            room -= sum(chosen)
        rows.append(row)
    return [rows[row] for row in np.random.default_rng(seed).permutation(len(rows))]


class _UnpackedSamples:
    """The samples that are not in a row yet, by length.

    Bit n of `_lengths` is set if some sample has n tokens; bit n of `_mirrored`, if some sample has max_length - n.
    Both include length 0.
    """

    def __init__(self, lengths: Sequence[int], max_length: int) -> None:
        self._max_length = max_length
        self._samples: dict[int, list[int]] = {}
        for index in reversed(range(len(lengths))):
            self._samples.setdefault(lengths[index], []).append(index)
        self._lengths = sum(1 << length for length in (0, *self._samples))
        self._mirrored = sum(1 << max_length - length for length in (0, *self._samples))

    def take(self, length: int) -> int:
        """Take the first sample of a length."""
        samples = self._samples[length]
        index = samples.pop()
        if not samples:
            del self._samples[length]
            self._lengths ^= 1 << length
            self._mirrored ^= 1 << self._max_length - length
        return index

    def longest(self, limit: int) -> int:
        """The largest length up to `limit`; 0 if there is none."""
        return (self._lengths & (2 << limit) - 1).bit_length() - 1

    def best_for(self, room: int) -> tuple[int, ...]:
        """The lengths to add next to a row; empty if nothing fits."""
        if room in self._samples:
            return (room,)
        longest = self.longest(room)
        if not longest:
            return ()
        if self.longest(room - longest) == 0 and (pair := self._pair_for(room)):
            return pair
        return (longest,)

    def _pair_for(self, room: int) -> tuple[int, ...]:
        """Two available lengths, as similar as possible, whose sum is `room`; empty if there are none."""
        # A bit is set in both if this length and its complement to `room` are available.
        halves = self._lengths & self._mirrored >> self._max_length - room
        shorter = (halves & (2 << room // 2) - 1).bit_length() - 1
        if shorter <= 0 or (2 * shorter == room and len(self._samples[shorter]) < 2):
            return ()
        return room - shorter, shorter
