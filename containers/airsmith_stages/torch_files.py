"""Files that torch writes, read without torch and without running anything that a pickle names: where tensors lie."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from airsmith.errors import AirsmithError
from airsmith_stages.torch_pickles import METADATA, STATE, TENSOR, DescribedTensor, Record, broken_file, unpickle
from airsmith_stages.weights.file_slice import FileSlice
from airsmith_stages.weights.header import ITEM_BYTES
from airsmith_stages.weights.readers import FileReader

_LARGEST_METADATA_BYTES = 1 << 28
_LARGEST_MEMBER_BYTES = 1 << 20
"""Of what describes one saved tensor; its elements are not meant."""
_LARGEST_STATE_BYTES = 1 << 26
"""Of what describes all tensors of a file."""
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of a file that `torch.save` wrote.

    :param begin: offset in the file of its first byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class TensorReference:
    """Stands where a tensor would that lies in a file of its own.

    :param number: the file's.
    """

    number: int


def read_metadata(name: str, content: bytes) -> Any:
    """The object of a `.metadata` file, as `Record`s, tuples, lists and dicts.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    if len(content) > _LARGEST_METADATA_BYTES:
        raise broken_file(name, "it is too large")
    return unpickle(name, content, METADATA)


def find_tensor(source: FileReader, file: str, begin: int, length: int) -> SavedTensor:
    """Find the one tensor of a file, or of a part of it, that `torch.save` wrote; its elements are not read.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    with _opened(source, file, begin, length) as saved:
        tensor = unpickle(file, saved.description(_LARGEST_MEMBER_BYTES), TENSOR)
        if not isinstance(tensor, DescribedTensor):
            raise ValueError("it holds no plain tensor")
        return saved.place(tensor)


def find_state(source: FileReader, file: str, length: int) -> dict[str, SavedTensor | TensorReference]:
    """Find the tensors, by their names, of a file that `torch.save` wrote of a state; their elements are not read.

    torch_xla writes such files ("xser") with each tensor in a file of its own and a reference in its place. Source:
    `torch_xla/utils/serialization.py`.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    with _opened(source, file, 0, length) as saved:
        state = unpickle(file, saved.description(_LARGEST_STATE_BYTES), STATE)
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("it holds no tensors by name")
        return {
            name: saved.place(value) if isinstance(value, DescribedTensor) else _reference(value)
            for name, value in state.items()
        }


@dataclass(frozen=True)
class _Saved:
    """An archive that `torch.save` wrote.

    :param root: the folder in it.
    """

    archive: zipfile.ZipFile
    root: str
    part: FileSlice
    begin: int
    length: int

    def description(self, most_bytes: int) -> bytes:
        """The pickle that describes what was saved."""
        order = f"{self.root}byteorder"
        if order in self.archive.namelist() and _member(self.archive, order, _LARGEST_MEMBER_BYTES) != b"little":
            raise ValueError("its numbers are big-endian")
        return _member(self.archive, f"{self.root}data.pkl", most_bytes)

    def place(self, tensor: DescribedTensor) -> SavedTensor:
        """Where a tensor's elements lie."""
        return _place(tensor, self.archive.getinfo(f"{self.root}data/{tensor.key}"), self.part, self.begin, self.length)


@contextmanager
def _opened(source: FileReader, file: str, begin: int, length: int) -> Iterator[_Saved]:
    part = FileSlice(source, file, begin, length)
    try:
        with zipfile.ZipFile(part) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            yield _Saved(archive, root, part, begin, length)
    except AirsmithError:
        raise
    # zipfile meets damage with a dozen types of exceptions.
    except Exception as error:
        raise broken_file(file, f"at byte {begin}: {error or type(error).__name__}") from error


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    if archive.getinfo(name).file_size > most_bytes:
        raise ValueError(f"its {name} is too large")
    return archive.read(name)


def _reference(value: Any) -> TensorReference:
    number = value.field("tid") if isinstance(value, Record) else None
    if type(number) is not int or not 0 <= number < 2**31:
        raise ValueError("it holds something else than tensors")
    return TensorReference(number)


def _place(tensor: DescribedTensor, stored: zipfile.ZipInfo, part: FileSlice, begin: int, length: int) -> SavedTensor:
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
