"""Put samples into as few rows as they fit: the longest first, and at last those that fill a row to its end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int], max_length: int, seed: int) -> list[list[int]]:
    """Rows of sample indices, none longer in sum than a row; every sample stands in exactly one.

    Row by row, the longest sample that fits is taken. Where nothing would fit behind it, two that fill the row exactly
    are preferred: best-fit decreasing, which looks at one sample at a time, leaves several times as much empty where
    hardly any sample is short. Rows come out in a seeded order, since that in which they were made runs from long
    samples to short ones.
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
    """The samples that stand in no row yet, by length.

    Bit n of `_there` tells whether some are n tokens long, and of `_mirrored`, whether some are max_length - n. Both
    have a bit for length 0.
    """

    def __init__(self, lengths: Sequence[int], max_length: int) -> None:
        self._max_length = max_length
        self._samples: dict[int, list[int]] = {}
        for index in reversed(range(len(lengths))):
            self._samples.setdefault(lengths[index], []).append(index)
        self._there = sum(1 << length for length in (0, *self._samples))
        self._mirrored = sum(1 << max_length - length for length in (0, *self._samples))

    def take(self, length: int) -> int:
        """The first sample of a length."""
        samples = self._samples[length]
        index = samples.pop()
        if not samples:
            del self._samples[length]
            self._there ^= 1 << length
            self._mirrored ^= 1 << self._max_length - length
        return index

    def longest(self, most: int) -> int:
        """The largest length that is no more than this; 0 where there is none."""
        return (self._there & (2 << most) - 1).bit_length() - 1

    def best_for(self, room: int) -> tuple[int, ...]:
        """The lengths to go on with in a row: none where nothing fits."""
        if room in self._samples:
            return (room,)
        longest = self.longest(room)
        if not longest:
            return ()
        if self.longest(room - longest) == 0 and (pair := self._pair_for(room)):
            return pair
        return (longest,)

    def _pair_for(self, room: int) -> tuple[int, ...]:
        """Two lengths, as equal as there are, that make up this one; none where no two do."""
        # Of each bit that both have, the length is there and so is what then is missing.
        halves = self._there & self._mirrored >> self._max_length - room
        shorter = (halves & (2 << room // 2) - 1).bit_length() - 1
        if shorter <= 0 or (2 * shorter == room and len(self._samples[shorter]) < 2):
            return ()
        return room - shorter, shorter
