"""Read checkpoints of torch's `HuggingFaceStorageWriter`: safetensors files of each process with their chunks' offsets.

Source: `torch/distributed/checkpoint/{hf_storage,_hf_utils}.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial

from airsmith_stages.consolidating.checkpoint import Chunk, ShardedCheckpoint, ShardedTensor, bad_checkpoint
from airsmith_stages.weights.header import Header, read_header
from airsmith_stages.weights.readers import FileReader

_SHARD = re.compile(r"shard-(?P<rank>\d{5})-model-(?P<part>\d{5})-of-(?P<parts>\d{5})\.safetensors")
_SHARDING = "DCP_SHARDING_INFO"


def is_shard(file: str) -> bool:
    """Whether a file is a process's shard."""
    return _SHARD.fullmatch(file) is not None


def read_hugging_face(source: FileReader, ranks: int) -> ShardedCheckpoint:
    """Read the processes' files; all processes have the same number of files.

    :param ranks: number of processes. The files do not record it, and without the last process's files a checkpoint
        looks like a smaller model.
    :raises AirsmithError: `bad_data`, naming the file.
    """
    sizes = source.sizes()
    chunks: dict[str, list[Chunk]] = {}
    dtypes: dict[str, str] = {}
    for file in _files(sizes, ranks):
        header = read_header(file, sizes[file], partial(source.read_range, file))
        offsets = _saved_offsets(file, header)
        for tensor in header.tensors:
            if dtypes.setdefault(tensor.name, tensor.dtype) != tensor.dtype:
                raise bad_checkpoint(
                    f"{tensor.name} is {tensor.dtype} in {file}, but {dtypes[tensor.name]} in another file"
                )
            if len(offsets.get(tensor.name, ())) != len(tensor.shape) or tensor.name not in offsets:
                raise bad_checkpoint(f"{file} has no offsets for its chunk of {tensor.name}")
            chunk = Chunk(offsets[tensor.name], tensor.shape, file, tensor.begin)
            chunks.setdefault(tensor.name, []).append(chunk)
    return ShardedCheckpoint(
        source, {name: ShardedTensor(dtypes[name], _extent(name, made), tuple(made)) for name, made in chunks.items()}
    )


def _files(sizes: Mapping[str, int], ranks: int) -> list[str]:
    found = {(int(match["rank"]), int(match["part"])): match for name in sizes if (match := _SHARD.fullmatch(name))}
    parts = {int(match["parts"]) for match in found.values()}
    if len(parts) > 1:
        raise bad_checkpoint(
            f"The checkpoint mixes files in {min(parts)} and in {max(parts)} parts, which different saves wrote"
        )
    for rank in range(1, ranks + 1):
        for part in range(1, max(parts, default=1) + 1):
            if (rank, part) not in found:
                of = f"part {part} of " if max(parts, default=1) > 1 else ""
                raise bad_checkpoint(f"The checkpoint lacks {of}the file of process {rank} of {ranks}")
    if len(found) > ranks * max(parts):
        raise bad_checkpoint(f"{found[max(found)].string} belongs to none of the {ranks} processes")
    return [found[key].string for key in sorted(found)]


def _saved_offsets(file: str, header: Header) -> dict[str, tuple[int, ...]]:
    try:
        content = json.loads(header.metadata[_SHARDING])
        offsets = {name: tuple(info["saved_offsets"]) for name, info in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise bad_checkpoint(f"{file} has no valid offsets for its chunks") from error
    if not all(type(value) is int and 0 <= value < 2**63 for values in offsets.values() for value in values):
        raise bad_checkpoint(f"{file} has invalid offsets for its chunks")
    return offsets


def _extent(name: str, chunks: list[Chunk]) -> tuple[int, ...]:
    """The tensor's shape, computed from its chunks because the files do not record it."""
    if any(len(chunk.shape) != len(chunks[0].shape) for chunk in chunks):
        raise bad_checkpoint(
            f"The chunks of {name} in {chunks[0].file} and others differ in their number of dimensions"
        )
    return tuple(
        max(chunk.offsets[dimension] + chunk.shape[dimension] for chunk in chunks)
        for dimension in range(len(chunks[0].shape))
    )
