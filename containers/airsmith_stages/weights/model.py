"""The tensors of a model in safetensors files: a single file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.weights.header import Header, Tensor, read_header
from airsmith_stages.weights.readers import FileReader

SINGLE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Weights:
    """A model's tensors, by file.

    :param headers: header of each file, sorted by file name.
    """

    source: FileReader
    headers: Mapping[str, Header]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, in the order of their files and bytes."""
        return {tensor.name: tensor for header in self.headers.values() for tensor in header.tensors}

    def read(self, name: str) -> bytes:
        """The bytes of a whole tensor; only for small tensors.

        :raises KeyError: if the tensor does not exist.
        """
        for file, header in self.headers.items():
            for tensor in header.tensors:
                if tensor.name == name:
                    return self.source.read_range(file, tensor.begin, tensor.size_bytes)
        raise KeyError(name)


def open_weights(source: FileReader, single_file: str = SINGLE_FILE) -> Weights:
    """Read the headers of a model's files.

    :raises AirsmithError: `bad_data`, naming the file, if files are damaged or do not match the index.
    """
    sizes = source.sizes()
    index_name = f"{single_file}.index.json"
    placed = _read_index(source, index_name, sizes[index_name]) if index_name in sizes else None
    files = [single_file] if placed is None else sorted(set(placed.values()))
    for file in files:
        if file not in sizes:
            raise _damaged(file, "is missing")
    headers = {file: read_header(file, sizes[file], partial(source.read_range, file)) for file in files}
    if placed is not None:
        _compare(index_name, placed, headers)
    return Weights(source, headers)


def _read_index(source: FileReader, name: str, size_bytes: int) -> dict[str, str]:
    try:
        content: Any = json.loads(source.read_range(name, 0, size_bytes))
        placed = content["weight_map"]
        names = {*placed, *placed.values()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(name, "is not an index of safetensors files") from error
    if not placed or not all(isinstance(text, str) for text in names):
        raise _damaged(name, "has no valid weight_map")
    for file in set(placed.values()):
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file or not file.endswith(".safetensors"):
            raise _damaged(name, f"refers to {file!r}, which is not a safetensors file in the same folder")
    return dict(placed)


def _compare(index_name: str, placed: Mapping[str, str], headers: Mapping[str, Header]) -> None:
    """Check that each tensor is in the file that the index names, and in no other."""
    found: dict[str, str] = {}
    for file, header in headers.items():
        for tensor in header.tensors:
            if tensor.name in found:
                raise _damaged(file, f"contains tensor {tensor.name}, which {found[tensor.name]} contains as well")
            found[tensor.name] = file
    for tensor_name in sorted(placed.keys() | found.keys()):
        if placed.get(tensor_name) != found.get(tensor_name):
            raise _damaged(
                index_name,
                f"maps tensor {tensor_name} to {placed.get(tensor_name, 'no file')}, "
                f"but it is in {found.get(tensor_name, 'no file')}",
            )


def _damaged(file: str, what: str) -> AirsmithError:
    return AirsmithError(ErrorKind.BAD_DATA, f"{file} {what}.", "Download the model's files from their origin again.")
