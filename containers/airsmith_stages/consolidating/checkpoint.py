"""A sharded checkpoint of any format: its tensors, and the location of their chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.weights.header import ITEM_BYTES
from airsmith_stages.weights.readers import FileReader


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor, stored contiguously in row-major order.

    :param offsets: its offset in the tensor, by dimension.
    :param begin: offset of its first byte in the file.
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    begin: int


@dataclass(frozen=True)
class ShardedTensor:
    """A tensor in chunks.

    :param copies: replicas of other processes, each with offsets and shape of one of the chunks.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    copies: tuple[Chunk, ...] = ()


@dataclass(frozen=True)
class ShardedCheckpoint:
    """The interface between the readers of checkpoint formats and the consolidation.

    :param tensors: by name.
    """

    source: FileReader
    tensors: Mapping[str, ShardedTensor]


def check(checkpoint: ShardedCheckpoint) -> None:
    """Check that the chunks of each tensor cover its shape exactly once.

    :raises AirsmithError: `bad_data`, naming tensor and file.
    """
    if not checkpoint.tensors:
        raise bad_checkpoint("The checkpoint contains no tensor")
    sizes = checkpoint.source.sizes()
    for name, tensor in checkpoint.tensors.items():
        for chunk in (*tensor.chunks, *tensor.copies):
            _check_chunk(name, tensor, chunk, sizes)
        for one, other in _neighbors(tensor):
            if _overlap(one, other):
                raise bad_checkpoint(f"Chunks of {name} in {one.file} and {other.file} overlap")
        covered = sum(math.prod(chunk.shape) for chunk in tensor.chunks)
        if covered != math.prod(tensor.shape):
            files = f" (in {tensor.chunks[0].file} and others)" if tensor.chunks else ""
            raise bad_checkpoint(
                f"The chunks of {name}{files} cover {covered} of {math.prod(tensor.shape)} elements: a chunk is missing"
            )


def _check_chunk(name: str, tensor: ShardedTensor, chunk: Chunk, sizes: Mapping[str, int]) -> None:
    if len(chunk.offsets) != len(tensor.shape) or len(chunk.shape) != len(tensor.shape):
        raise bad_checkpoint(
            f"A chunk of {name} in {chunk.file} does not have the tensor's {len(tensor.shape)} dimensions"
        )
    ends = [offset + length for offset, length in zip(chunk.offsets, chunk.shape, strict=True)]
    if any(end > length for end, length in zip(ends, tensor.shape, strict=True)):
        raise bad_checkpoint(f"A chunk of {name} in {chunk.file} exceeds the tensor's shape {list(tensor.shape)}")
    if chunk.file not in sizes:
        raise bad_checkpoint(f"{chunk.file}, which contains a chunk of {name}, is missing")
    if chunk.begin + math.prod(chunk.shape) * ITEM_BYTES[tensor.dtype] > sizes[chunk.file]:
        raise bad_checkpoint(f"{chunk.file} ends before the end of its chunk of {name}")


def _neighbors(tensor: ShardedTensor) -> Iterator[tuple[Chunk, Chunk]]:
    """Pairs of chunks that can overlap: those that overlap in the dimension with the most splits."""
    cuts = [len({chunk.offsets[dimension] for chunk in tensor.chunks}) for dimension in range(len(tensor.shape))]
    if not cuts:
        yield from combinations(tensor.chunks, 2)
        return
    dimension = cuts.index(max(cuts))
    chunks = sorted(tensor.chunks, key=lambda chunk: chunk.offsets[dimension])
    for number, one in enumerate(chunks, start=1):
        end = one.offsets[dimension] + one.shape[dimension]
        for other in islice(chunks, number, None):
            if other.offsets[dimension] >= end:
                break
            yield one, other


def _overlap(one: Chunk, other: Chunk) -> bool:
    return all(
        max(a, b) < min(a + length, b + other_length)
        for a, length, b, other_length in zip(one.offsets, one.shape, other.offsets, other.shape, strict=True)
    ) and 0 not in (*one.shape, *other.shape)


def bad_checkpoint(what: str) -> AirsmithError:
    """The error of a damaged checkpoint."""
    return AirsmithError(
        ErrorKind.BAD_DATA, f"{what}.", "Use an earlier checkpoint, or train again to write a new one."
    )
