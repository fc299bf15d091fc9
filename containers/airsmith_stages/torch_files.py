"""Locates tensors in files that torch has written, without torch and without running code from their pickles."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from airsmith.errors import AirsmithError
from airsmith_stages.torch_pickles import (
    METADATA_CLASSES,
    STATE_CLASSES,
    TENSOR_CLASSES,
    DescribedTensor,
    Record,
    unpickle,
    unreadable_file,
)
from airsmith_stages.weights.file_slice import FileSlice
from airsmith_stages.weights.header import ITEM_BYTES
from airsmith_stages.weights.readers import FileReader

_MAX_METADATA_BYTES = 1 << 28
_MAX_MEMBER_BYTES = 1 << 20
"""Size limit of the pickle that describes one tensor, without the tensor's elements."""
_MAX_STATE_BYTES = 1 << 26
"""Size limit of the pickle that describes all tensors of a file."""
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class SavedTensor:
    """A tensor in a file that `torch.save` has written.

    :param begin: offset of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class TensorReference:
    """A placeholder for a tensor in a separate file.

    :param number: of that file.
    """

    number: int


def read_metadata(name: str, content: bytes) -> Any:
    """Read the object in a `.metadata` file, as `Record`s, tuples, lists and dicts.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    if len(content) > _MAX_METADATA_BYTES:
        raise unreadable_file(name, "it is too large")
    return unpickle(name, content, METADATA_CLASSES)


def find_tensor(source: FileReader, file: str, begin: int, length: int) -> SavedTensor:
    """Locate the only tensor in a file or a part of a file that `torch.save` has written. Reads no elements.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    with _opened(source, file, begin, length) as saved:
        tensor = unpickle(file, saved.description(_MAX_MEMBER_BYTES), TENSOR_CLASSES)
        if not isinstance(tensor, DescribedTensor):
            raise ValueError("it contains no plain tensor")
        return saved.locate(tensor)


def find_state(source: FileReader, file: str, length: int) -> dict[str, SavedTensor | TensorReference]:
    """Locate the tensors, by name, in a file with a state dict that `torch.save` has written. Reads no elements.

    torch_xla writes such files ("xser") with references to tensors in separate files. Source:
    `torch_xla/utils/serialization.py`.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    with _opened(source, file, 0, length) as saved:
        state = unpickle(file, saved.description(_MAX_STATE_BYTES), STATE_CLASSES)
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("it contains no state dict")
        return {
            name: saved.locate(value) if isinstance(value, DescribedTensor) else _reference(value)
            for name, value in state.items()
        }


@dataclass(frozen=True)
class _Saved:
    """An archive that `torch.save` has written.

    :param root: its top folder.
    """

    archive: zipfile.ZipFile
    root: str
    part: FileSlice
    begin: int
    length: int

    def description(self, max_bytes: int) -> bytes:
        """The pickle that describes the saved object."""
        order = f"{self.root}byteorder"
        if order in self.archive.namelist() and _member(self.archive, order, _MAX_MEMBER_BYTES) != b"little":
            raise ValueError("its numbers are big-endian")
        return _member(self.archive, f"{self.root}data.pkl", max_bytes)

    def locate(self, tensor: DescribedTensor) -> SavedTensor:
        """Locate a tensor's elements."""
        return _locate(
            tensor, self.archive.getinfo(f"{self.root}data/{tensor.key}"), self.part, self.begin, self.length
        )


@contextmanager
def _opened(source: FileReader, file: str, begin: int, length: int) -> Iterator[_Saved]:
    part = FileSlice(source, file, begin, length)
    try:
        with zipfile.ZipFile(part) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            yield _Saved(archive, root, part, begin, length)
    except AirsmithError:
        raise
    # zipfile raises many types of exceptions for damaged files.
    except Exception as error:
        raise unreadable_file(file, f"at byte {begin}: {error or type(error).__name__}") from error


def _member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    if archive.getinfo(name).file_size > max_bytes:
        raise ValueError(f"its {name} is too large")
    return archive.read(name)


def _reference(value: Any) -> TensorReference:
    number = value.field("tid") if isinstance(value, Record) else None
    if type(number) is not int or not 0 <= number < 2**31:
        raise ValueError("it contains objects other than tensors")
    return TensorReference(number)


def _locate(tensor: DescribedTensor, stored: zipfile.ZipInfo, part: FileSlice, begin: int, length: int) -> SavedTensor:
    part.seek(stored.header_offset)
    local_header = part.read(_LOCAL_HEADER_BYTES)
    if stored.compress_type != zipfile.ZIP_STORED or local_header[:4] != b"PK\x03\x04":
        raise ValueError("its elements are compressed")
    names_length = int.from_bytes(local_header[26:28], "little") + int.from_bytes(local_header[28:30], "little")
    item_bytes = ITEM_BYTES[tensor.dtype]
    first_byte = tensor.first_element * item_bytes
    end = first_byte + math.prod(tensor.shape) * item_bytes
    elements_begin = stored.header_offset + _LOCAL_HEADER_BYTES + names_length
    if end > stored.file_size or elements_begin + end > length:
        raise ValueError(f"it stores {stored.file_size} bytes of a tensor that ends at {end}")
    return SavedTensor(tensor.dtype, tensor.shape, begin + elements_begin + first_byte)
