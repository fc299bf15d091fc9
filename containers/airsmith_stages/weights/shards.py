"""Plan the files of a model before writing: shards of a bounded size, and an index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from airsmith_stages.weights.header import Header, Tensor, make_header
from airsmith_stages.weights.model import INDEX, SINGLE_FILE

METADATA = {"format": "pt"}
"""transformers requires it in every file."""


@dataclass(frozen=True)
class Shard:
    """A file to write: its header, then the bytes of its tensors in order.

    :param header_bytes: the serialized header, including its length.
    """

    file: str
    header_bytes: bytes
    header: Header

    @property
    def size_bytes(self) -> int:
        """Size of the whole file in bytes."""
        return self.header.tensors[-1].end


def plan_shards(tensors: Iterable[tuple[str, str, tuple[int, ...]]], max_bytes: int) -> list[Shard]:
    """Group tensors (name, type, shape) into files in order; a tensor larger than the limit gets its own file.

    :raises ValueError: if there is no tensor.
    """
    groups: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    filled = 0
    for described in tensors:
        size_bytes = Tensor(*described, begin=0).size_bytes
        if groups[-1] and filled + size_bytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(described)
        filled += size_bytes
    if not groups[0]:
        raise ValueError("there is no tensor to write")
    shards = []
    for number, group in enumerate(groups, start=1):
        file = SINGLE_FILE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        shards.append(Shard(file, *make_header(group, METADATA)))
    return shards


def index_of(shards: Sequence[Shard]) -> tuple[str, bytes] | None:
    """Name and content of the index of shards; None for a single file, which needs no index."""
    if len(shards) == 1:
        return None
    placed = {tensor.name: shard.file for shard in shards for tensor in shard.header.tensors}
    total_size = sum(tensor.size_bytes for shard in shards for tensor in shard.header.tensors)
    content = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(placed.items()))}
    return INDEX, (json.dumps(content, indent=2) + "\n").encode()
