"""Compare the replicas of tensors that several processes hold; they should be equal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from airsmith.artifacts.objects import Piece
from airsmith_stages.consolidating.checkpoint import Chunk, ShardedCheckpoint, ShardedTensor, bad_checkpoint
from airsmith_stages.weights.header import ITEM_BYTES
from airsmith_stages.weights.readers import FileReader

_BLOCK_BYTES = 1024 * 1024
_THREADS = 8


@dataclass(frozen=True)
class Spread:
    """Differences between replicas.

    :param replicated: number of tensors with replicas.
    :param differing: number of tensors whose replicas differ.
    :param largest: largest absolute difference of two elements.
    :param name: tensor with the largest difference.
    """

    replicated: int
    differing: int
    largest: float
    name: str


def spread_of(checkpoint: ShardedCheckpoint) -> Spread:
    """Compare every replica with the chunk that the consolidation uses.

    :raises AirsmithError: `bad_data` if differing elements are not finite floats.
    """
    replicated = {name: tensor for name, tensor in sorted(checkpoint.tensors.items()) if tensor.copies}
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(lambda item: _largest_difference(checkpoint.source, *item), replicated.items()))
    largest, name = max(zip(found, replicated, strict=True), default=(0.0, ""))
    return Spread(len(found), sum(difference > 0 for difference in found), largest, name if largest else "")


def same_bytes(source: FileReader, one: Chunk, other: Chunk, item_bytes: int) -> bool:
    """Whether two chunks of the same shape have equal bytes."""
    return all(mine == others for mine, others in _blocks(source, one, other, item_bytes))


def _largest_difference(source: FileReader, name: str, tensor: ShardedTensor) -> float:
    used = {chunk.offsets: chunk for chunk in tensor.chunks}
    largest = 0.0
    for copy in tensor.copies:
        chunk = used[copy.offsets]
        for mine, others in _blocks(source, chunk, copy, ITEM_BYTES[tensor.dtype]):
            if mine != others:
                largest = max(largest, _difference(name, chunk, copy, tensor.dtype, mine, others))
    return largest


def _difference(name: str, one: Chunk, other: Chunk, dtype: str, mine: Piece, others: Piece) -> float:
    # Imported here because it is rarely needed and its import takes a tenth of a small consolidation's time.
    import numpy as np

    from airsmith_stages.merging.elements import FLOATING, to_floats

    if dtype in FLOATING:
        difference = np.abs(to_floats(mine, dtype) - to_floats(others, dtype)).max()
        if np.isfinite(difference):
            return float(difference)
    raise bad_checkpoint(f"The replicas of {name} in {one.file} and {other.file} differ and are not finite numbers")


def _blocks(source: FileReader, one: Chunk, other: Chunk, item_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    size_bytes = math.prod(one.shape) * item_bytes
    for offset in range(0, size_bytes, _BLOCK_BYTES):
        length = min(_BLOCK_BYTES, size_bytes - offset)
        yield (
            source.read_range(one.file, one.begin + offset, length),
            source.read_range(other.file, other.begin + offset, length),
        )
