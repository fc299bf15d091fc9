"""Assemble whole tensors from their chunks, in order and in bounded memory, and write them to files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from airsmith.artifacts.objects import Piece
from airsmith_stages.consolidating.checkpoint import Chunk, ShardedCheckpoint, check
from airsmith_stages.weights.cursor import prefetch
from airsmith_stages.weights.header import ITEM_BYTES
from airsmith_stages.weights.readers import FileReader
from airsmith_stages.weights.shards import index_of, plan_shards

BLOCK_BYTES = 1024 * 1024
"""Bytes per read; a block that fits a processor's cache is copied faster."""

WriteFile = Callable[[str, Iterable[Piece], int], object]
"""Writes a file, given its name, its content in pieces and its size in bytes."""


def consolidate(checkpoint: ShardedCheckpoint, write: WriteFile, *, max_shard_bytes: int = 5 * 10**9) -> int:
    """Write a checkpoint's tensors as safetensors files with their index.

    :param write: receives one file after another.
    :returns: the number of tensors.
    :raises AirsmithError: `bad_data`, before any write, if a chunk is missing, duplicated or misplaced.
    """
    check(checkpoint)
    tensors = checkpoint.tensors
    shards = plan_shards(
        [(name, tensors[name].dtype, tensors[name].shape) for name in sorted(tensors)], max_shard_bytes
    )
    for shard in shards:
        content = (
            piece
            for tensor in shard.header.tensors
            for piece in assembled(
                checkpoint.source, tensor.shape, tensors[tensor.name].chunks, ITEM_BYTES[tensor.dtype]
            )
        )
        write(shard.file, prefetch(_headed(shard.header_bytes, content)), shard.size_bytes)
    index = index_of(shards)
    if index is not None:
        write(index[0], [index[1]], len(index[1]))
    return len(tensors)


def assembled(source: FileReader, shape: Sequence[int], chunks: Sequence[Chunk], item_bytes: int) -> Iterator[Piece]:
    """A tensor's bytes in row-major order, from its chunks."""
    if 0 in shape:
        return
    if all(tuple(chunk.shape[1:]) == tuple(shape[1:]) for chunk in chunks):
        for chunk in sorted(chunks, key=lambda chunk: chunk.offsets):
            yield from _whole(source, chunk, math.prod(chunk.shape) * item_bytes)
        return
    row_bytes = math.prod(shape[1:]) * item_bytes
    if row_bytes > BLOCK_BYTES:
        for row in range(shape[0]):
            yield from assembled(source, shape[1:], _at_row(chunks, row, item_bytes), item_bytes)
        return
    block_rows = max(1, BLOCK_BYTES // row_bytes)
    for first in range(0, shape[0], block_rows):
        yield _block(source, [min(block_rows, shape[0] - first), *shape[1:]], first, chunks, item_bytes)


def _headed(head: bytes, content: Iterable[Piece]) -> Iterator[Piece]:
    yield head
    yield from content


def _whole(source: FileReader, chunk: Chunk, size_bytes: int) -> Iterator[Piece]:
    for offset in range(0, size_bytes, BLOCK_BYTES):
        yield source.read_range(chunk.file, chunk.begin + offset, min(BLOCK_BYTES, size_bytes - offset))


def _at_row(chunks: Sequence[Chunk], row: int, item_bytes: int) -> list[Chunk]:
    """The chunks of one row, as chunks of a tensor with one dimension less."""
    return [
        replace(
            chunk,
            offsets=chunk.offsets[1:],
            shape=chunk.shape[1:],
            begin=chunk.begin + (row - chunk.offsets[0]) * math.prod(chunk.shape[1:]) * item_bytes,
        )
        for chunk in chunks
        if chunk.offsets[0] <= row < chunk.offsets[0] + chunk.shape[0]
    ]


def _block(source: FileReader, shape: Sequence[int], first: int, chunks: Sequence[Chunk], item_bytes: int) -> Piece:
    """Some rows, assembled from the chunks that intersect them."""
    # Imported here because most checkpoints are split by rows and do not need numpy, whose import takes a tenth of a
    # small consolidation's time.
    import numpy as np

    block = np.empty([*shape, item_bytes], np.uint8)
    for chunk in chunks:
        begin = max(first, chunk.offsets[0])
        end = min(first + shape[0], chunk.offsets[0] + chunk.shape[0])
        if begin >= end:
            continue
        row_bytes = math.prod(chunk.shape[1:]) * item_bytes
        raw = source.read_range(
            chunk.file, chunk.begin + (begin - chunk.offsets[0]) * row_bytes, (end - begin) * row_bytes
        )
        bounds = zip(chunk.offsets[1:], chunk.shape[1:], strict=True)
        place = (slice(begin - first, end - first), *(slice(offset, offset + size) for offset, size in bounds))
        block[place] = np.frombuffer(raw, np.uint8).reshape(end - begin, *chunk.shape[1:], item_bytes)
    return block.reshape(-1).data
