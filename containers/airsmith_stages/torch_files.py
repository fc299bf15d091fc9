"""Files that torch writes with pickle, read without running anything that they name, and without torch.

torch itself unpickles a checkpoint's `.metadata` with plain `pickle.load`, which runs whatever the file says. Here a
pickle may name the few classes of the tables below and nothing else; each of them becomes plain data.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.weights.header import ITEM_BYTES
from airsmith_stages.weights.source import Source

DTYPES: Mapping[str, str] = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""Names of the safetensors format's types, by torch's."""

_STORAGE_DTYPES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_LARGEST_METADATA_BYTES = 1 << 28
_LARGEST_MEMBER_BYTES = 1 << 20
"""Of what describes one saved tensor; its elements are not meant."""
_WINDOW_BYTES = 4096
_LOCAL_HEADER_BYTES = 30
_HINT = "Save the checkpoint again; a file that asks for other code than torch's own may have been tampered with."


class Record:
    """An object of a class that is known by its name alone."""

    kind = ""
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def field(self, name: str) -> Any:
        """A field of its state.

        :raises ValueError: where it has none of that name.
        """
        if not isinstance(self.state, dict) or name not in self.state:
            raise ValueError(f"a {self.kind} has no {name}")
        return self.state[name]


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of a file that `torch.save` wrote.

    :param begin: offset in the file of its first byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str


@dataclass(frozen=True)
class _Unplaced:
    dtype: str
    shape: tuple[int, ...]
    key: str
    first_element: int


def read_metadata(name: str, content: bytes) -> Any:
    """The object of a `.metadata` file, as `Record`s, tuples, lists and dicts.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    if len(content) > _LARGEST_METADATA_BYTES:
        raise _broken(name, "it is too large")
    return _unpickle(name, content, _METADATA)


def find_tensor(source: Source, file: str, begin: int, length: int) -> SavedTensor:
    """Find the one tensor of a file, or of a part of it, that `torch.save` wrote; its elements are not read.

    :raises AirsmithError: `bad_data`, naming the file.
    """
    part = _Part(source, file, begin, length)
    try:
        with zipfile.ZipFile(part) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            order = f"{root}byteorder"
            if order in archive.namelist() and _member(archive, order) != b"little":
                raise ValueError("its numbers are big-endian")
            tensor = _unpickle(file, _member(archive, f"{root}data.pkl"), _TENSOR)
            if not isinstance(tensor, _Unplaced):
                raise ValueError("it holds no plain tensor")
            return _place(tensor, archive.getinfo(f"{root}data/{tensor.key}"), part, begin, length)
    except AirsmithError:
        raise
    # zipfile meets damage with a dozen types of exceptions.
    except Exception as error:
        raise _broken(file, f"at byte {begin}: {error or type(error).__name__}") from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LARGEST_MEMBER_BYTES:
        raise ValueError(f"its {name} is too large")
    return archive.read(name)


def _place(tensor: _Unplaced, stored: zipfile.ZipInfo, part: _Part, begin: int, length: int) -> SavedTensor:
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


class _Part(io.RawIOBase):
    """A part of a file, as a file: its begin and its end, where a saved tensor is described, are read once each."""

    def __init__(self, source: Source, name: str, begin: int, length: int) -> None:
        self._source, self._name, self._begin, self._length = source, name, begin, length
        self._position = 0
        self._windows: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if position < 0:
            raise OSError("a place before its begin")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._length - self._position))
        content = self._read(self._position, length) if length else b""
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _read(self, offset: int, length: int) -> bytes:
        for window in (0, max(0, self._length - _WINDOW_BYTES)):
            if window <= offset and offset + length <= window + _WINDOW_BYTES:
                if window not in self._windows:
                    self._windows[window] = self._source.read_range(
                        self._name, self._begin + window, min(_WINDOW_BYTES, self._length)
                    )
                return self._windows[window][offset - window : offset - window + length]
        return self._source.read_range(self._name, self._begin + offset, length)


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C allocates whatever size a pickle claims
    """Knows the names of a table, and no others."""

    def __init__(self, content: bytes, known: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, key: Any) -> _Storage:
        if not isinstance(key, tuple) or len(key) != 5 or key[0] != "storage" or not isinstance(key[2], str):
            raise pickle.UnpicklingError("it refers to something outside that is no storage")
        dtype = key[1]
        if not isinstance(dtype, str):
            raise pickle.UnpicklingError("it has a storage of no known type")
        return _Storage(dtype, key[2])


def _unpickle(name: str, content: bytes, known: Mapping[tuple[str, str], Any]) -> Any:
    try:
        return _Unpickler(content, known).load()
    # Whatever a damaged pickle makes of the few names that it may use; nothing of it has run.
    except Exception as error:
        raise _broken(name, str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class _Call:
    """A function that a pickle may call; of a bare one it could change the defaults."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _rebuild(
    storage: _Storage, first_element: int, shape: Sequence[int], strides: Sequence[int], *rest: Any
) -> _Unplaced:
    """`torch._utils._rebuild_tensor_v2` and `_v3`; the latter names the type itself."""
    dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], str) else storage.dtype
    _check_sizes([first_element, *shape, *strides])
    step = 1
    for length, stride in reversed(list(zip(shape, strides, strict=True))):
        if length > 1 and stride != step and 0 not in shape:
            raise ValueError("its tensor is not contiguous")
        step *= length
    return _Unplaced(dtype, tuple(shape), storage.key, first_element)


def _size(values: Sequence[int] = ()) -> tuple[int, ...]:
    _check_sizes(values)
    return tuple(values)


def _check_sizes(values: Sequence[int]) -> None:
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("it has a size that is none")


def _record(kind: str) -> type[Record]:
    return type(kind, (Record,), {"kind": kind})


def _nothing(*arguments: Any) -> None:
    """Of what counts for nothing here: layouts, memory formats, the path that a checkpoint once had."""


_METADATA: dict[tuple[str, str], Any] = {
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{
        ("torch.distributed.checkpoint.metadata", kind): _record(kind)
        for kind in (
            "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
            "MetadataIndex", "StorageMeta",
        )
    },
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): _Call(_nothing),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _record("_StorageInfo"),
    ("torch", "Size"): _Call(_size),
    ("torch.serialization", "_get_layout"): _Call(_nothing),
    **{("pathlib", kind): _Call(_nothing) for kind in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")},
    **{("pathlib._local", kind): _Call(_nothing) for kind in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")},
    ("collections", "OrderedDict"): dict,
}  # fmt: skip
_TENSOR: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_rebuild),
    **{("torch", storage): dtype for storage, dtype in _STORAGE_DTYPES.items()},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    ("torch.storage", "UntypedStorage"): "U8",
    ("collections", "OrderedDict"): dict,
}


def _broken(name: str, what: str) -> AirsmithError:
    return AirsmithError(ErrorKind.BAD_DATA, f"{name} cannot be read as one of torch's files: {what}.", _HINT)
