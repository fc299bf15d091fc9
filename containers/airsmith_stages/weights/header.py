"""The header of a safetensors file: its tensors and their offsets.

Eight bytes with the header's length (little-endian), the header as JSON, then the tensors' bytes without a gap. Source:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind

ReadRange = Callable[[int, int], bytes]
"""Reads bytes of a file, given offset and length."""

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of an element by the format's name of its type. Types of less than a byte are not supported."""

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The limit that the format's reference implementation sets."""
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    :param begin: offset of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def size_bytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def end(self) -> int:
        """Offset in the file after its last byte."""
        return self.begin + self.size_bytes


@dataclass(frozen=True)
class Header:
    """A parsed header.

    :param tensors: in the order of their offsets.
    :param metadata: free text by key, such as `{"format": "pt"}`.
    """

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(file_name: str, size_bytes: int, read_range: ReadRange) -> Header:
    """Read and validate the header of a file.

    :raises AirsmithError: `bad_data`, naming the file, if header and file size do not match the format exactly.
    """
    if size_bytes < _LENGTH_BYTES:
        raise _damaged(file_name, f"has only {size_bytes} bytes")
    length = int.from_bytes(read_range(0, _LENGTH_BYTES), "little")
    data_begin = _LENGTH_BYTES + length
    if length > _MAX_HEADER_BYTES or data_begin > size_bytes:
        raise _damaged(file_name, f"announces a header of {length} bytes")
    try:
        content = json.loads(read_range(_LENGTH_BYTES, length).decode(), object_pairs_hook=_without_duplicates)
        header = _parsed(content, data_begin)
    except (ValueError, RecursionError) as error:
        raise _damaged(file_name, f"has an invalid header: {error}") from error
    end = data_begin
    for tensor in header.tensors:
        if tensor.begin != end:
            raise _damaged(file_name, f"has a gap or an overlap before tensor {tensor.name}")
        end = tensor.end
    if end != size_bytes:
        raise _damaged(file_name, f"has {size_bytes} bytes, but its tensors end at {end}")
    return header


def make_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, Header]:
    """The header of a file that holds these tensors (name, type, shape) in this order.

    :returns: its bytes, and the header that `read_header` parses from them.
    """
    placed: list[Tensor] = []
    for name, dtype, shape in tensors:
        placed.append(Tensor(name, dtype, tuple(shape), placed[-1].end if placed else 0))
    described = {
        tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [tensor.begin, tensor.end]}
        for tensor in placed
    }
    text = json.dumps({"__metadata__": dict(metadata), **described}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    begin = _LENGTH_BYTES + len(text)
    moved = tuple(Tensor(tensor.name, tensor.dtype, tensor.shape, begin + tensor.begin) for tensor in placed)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, Header(moved, dict(metadata))


def _parsed(content: Any, data_begin: int) -> Header:
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ is not an object of strings")
    tensors = [_tensor(name, described, data_begin) for name, described in content.items()]
    # Of tensors with the same offset, all but the last are empty.
    return Header(tuple(sorted(tensors, key=lambda tensor: (tensor.begin, tensor.size_bytes))), metadata)


def _tensor(name: str, described: Any, data_begin: int) -> Tensor:
    if not isinstance(described, dict) or described.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"it does not give dtype, shape and data_offsets of {name}")
    dtype, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{name} has unsupported type {dtype!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"shape or data_offsets of {name} are not valid")
    tensor = Tensor(name, dtype, tuple(shape), data_begin + offsets[0])
    if offsets[1] - offsets[0] != tensor.size_bytes:
        raise ValueError(f"{name} has {offsets[1] - offsets[0]} bytes but its shape requires {tensor.size_bytes}")
    return tensor


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"it lists {name} twice")
        content[name] = value
    return content


def _damaged(file_name: str, what: str) -> AirsmithError:
    return AirsmithError(
        ErrorKind.BAD_DATA,
        f"{file_name} {what}: it is not a complete safetensors file.",
        "Download the file from its origin again.",
    )
