"""Read checkpoints of torch.distributed.checkpoint: `.metadata`, and `.distcp` files of each process.

Each chunk is stored in its file in the format of `torch.save`. Source: `torch/distributed/checkpoint/filesystem.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from airsmith_stages.consolidating.checkpoint import Chunk, ShardedCheckpoint, ShardedTensor, bad_checkpoint
from airsmith_stages.torch_files import find_tensor, read_metadata
from airsmith_stages.torch_pickles import DTYPES, Record
from airsmith_stages.weights.readers import FileReader

METADATA = ".metadata"

_REQUESTS = 16
"""Concurrent requests; a store takes some ten milliseconds for each."""


@dataclass(frozen=True)
class _Stored:
    file: str
    begin: int
    length: int


_Places = Mapping[tuple[str, tuple[int, ...]], _Stored]
"""Location of each chunk, by tensor name and offsets."""


def read_dcp(source: FileReader, prefix: str = "") -> ShardedCheckpoint:
    """Read a checkpoint that `torch.distributed.checkpoint.save` wrote.

    :param prefix: reads only tensors with this name prefix and strips it, such as `model.` in a full training state.
    :raises AirsmithError: `bad_data`, naming the file.
    """
    sizes = source.sizes()
    if METADATA not in sizes:
        raise bad_checkpoint(f"The checkpoint has no {METADATA}, so its save did not finish")
    metadata = read_metadata(METADATA, source.read_range(METADATA, 0, sizes[METADATA]))
    try:
        places = _places(metadata.field("storage_data"))
        described = {
            name: tensor
            for name, tensor in metadata.field("state_dict_metadata").items()
            if name.startswith(prefix) and tensor.kind == "TensorStorageMetadata"
        }
        with ThreadPoolExecutor(_REQUESTS) as threads:
            tensors = {
                name.removeprefix(prefix): _tensor(source, sizes, name, tensor, places, threads)
                for name, tensor in described.items()
            }
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise bad_checkpoint(f"{METADATA} does not describe a checkpoint: {error}") from error
    return ShardedCheckpoint(source, tensors)


def _places(storage: Mapping[Any, Any]) -> _Places:
    places: dict[tuple[str, tuple[int, ...]], _Stored] = {}
    for index, info in storage.items():
        name, offsets = index.field("fqn"), index.state.get("offset")
        if offsets is None:  # not a tensor, but a counter or a name
            continue
        stored = _Stored(*(info.field(field) for field in ("relative_path", "offset", "length")))
        path = PurePosixPath(stored.file)
        if path.is_absolute() or ".." in path.parts or "\\" in stored.file:
            raise ValueError(f"{stored.file!r} is not a file in the same folder")
        _sizes((stored.begin, stored.length))
        if info.state.get("transform_descriptors"):
            raise ValueError(f"{stored.file} was transformed by an extension, which is not supported")
        places[name, _sizes(offsets)] = stored
    return places


def _tensor(
    source: FileReader,
    sizes: Mapping[str, int],
    name: str,
    described: Record,
    places: _Places,
    threads: ThreadPoolExecutor,
) -> ShardedTensor:
    properties = described.field("properties").state
    dtype = properties[0] if isinstance(properties, tuple) else properties["dtype"]
    if dtype not in DTYPES.values():
        raise ValueError(f"{name} has an unknown dtype")

    def chunk(boxed: Record) -> Chunk:
        offsets, shape = _sizes(boxed.field("offsets")), _sizes(boxed.field("sizes"))
        if (name, offsets) not in places:
            raise bad_checkpoint(f"{METADATA} lists no location for the chunk of {name} at {list(offsets)}")
        stored = places[name, offsets]
        if stored.file not in sizes:
            raise bad_checkpoint(f"{stored.file}, which contains a chunk of {name}, is missing")
        if stored.begin + stored.length > sizes[stored.file]:
            raise bad_checkpoint(f"{stored.file} ends before the end of its chunk of {name}")
        found = find_tensor(source, stored.file, stored.begin, stored.length)
        if (found.dtype, found.shape) != (dtype, shape):
            raise bad_checkpoint(
                f"{stored.file} contains {found.dtype} {list(found.shape)} for a chunk of {name}, "
                f"which should be {dtype} {list(shape)}"
            )
        return Chunk(offsets, shape, stored.file, found.begin)

    return ShardedTensor(dtype, _sizes(described.field("size")), tuple(threads.map(chunk, described.field("chunks"))))


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("it has an invalid size or offset")
    return values
