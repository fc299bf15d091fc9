"""Best-fit decreasing: put samples into as few rows as they fit, over the whole split."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int], max_length: int, seed: int) -> list[list[int]]:
    """Rows of sample indices, none longer in sum than a row; every sample stands in exactly one.

    Each sample, the longest first, goes into the fullest row that still takes it. Rows come out in a seeded order,
    since that in which they were made runs from long samples to short ones.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}
    rooms: list[int] = []
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for index in order:
        length = lengths[index]
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            row, room = len(rows), max_length
            rows.append([])
        else:
            room = rooms[place]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
                rooms.pop(place)
        rows[row].append(index)
        left = room - length
        if left > 0:
            if left not in open_rows:
                open_rows[left] = []
                bisect.insort(rooms, left)
            open_rows[left].append(row)
    return [rows[row] for row in np.random.default_rng(seed).permutation(len(rows))]
