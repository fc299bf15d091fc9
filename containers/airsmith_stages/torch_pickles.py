"""Reads torch's pickles without torch and without running code from them.

torch unpickles a checkpoint's `.metadata` with plain `pickle.load`, which runs any code that the file names. Here, a
pickle may name only the classes in the tables below, and each of them becomes plain data.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind

DTYPES: Mapping[str, str] = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""safetensors' names of data types, by torch's names."""

_STORAGE_DTYPES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_HINT = "Save the checkpoint again. A file that names code outside torch may have been tampered with."


class Record:
    """An object of a class of which only the name is known."""

    kind = ""
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def field(self, name: str) -> Any:
        """A field of its state.

        :raises ValueError: if it has no such field.
        """
        if not isinstance(self.state, dict) or name not in self.state:
            raise ValueError(f"a {self.kind} has no {name}")
        return self.state[name]


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str


@dataclass(frozen=True)
class DescribedTensor:
    """A tensor as described by a pickle; its elements are in another member of the archive.

    :param key: of that member.
    """

    dtype: str
    shape: tuple[int, ...]
    key: str
    first_element: int


class _Unpickler(pickle._Unpickler):  # the Python implementation: the one in C allocates any size that a pickle claims
    """Allows only the names in a table."""

    def __init__(self, content: bytes, allowed: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed") from None

    def persistent_load(self, key: Any) -> _Storage:
        if not isinstance(key, tuple) or len(key) != 5 or key[0] != "storage" or not isinstance(key[2], str):
            raise pickle.UnpicklingError("it refers to an external object that is not a storage")
        dtype = key[1]
        if not isinstance(dtype, str):
            raise pickle.UnpicklingError("it has a storage of an unknown type")
        return _Storage(dtype, key[2])


def unpickle(name: str, content: bytes, allowed: Mapping[tuple[str, str], Any]) -> Any:
    """Load a pickle that may name only the classes in a table.

    :param name: of the file, for the error message.
    :raises AirsmithError: `bad_data`, naming the file.
    """
    try:
        return _Unpickler(content, allowed).load()
    # A damaged pickle may misuse the allowed names in many ways; no code of its own has run.
    except Exception as error:
        raise unreadable_file(name, str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class _Call:
    """Wraps a function that a pickle may call: a pickle could change the defaults of a bare function."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it modifies a function")


def _rebuild(
    storage: _Storage, first_element: int, shape: Sequence[int], strides: Sequence[int], *rest: Any
) -> DescribedTensor:
    """`torch._utils._rebuild_tensor_v2` and `_v3`; the arguments of `_v3` include the data type."""
    dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], str) else storage.dtype
    _check_sizes([first_element, *shape, *strides])
    step = 1
    for length, stride in reversed(list(zip(shape, strides, strict=True))):
        if length > 1 and stride != step and 0 not in shape:
            raise ValueError("its tensor is not contiguous")
        step *= length
    return DescribedTensor(dtype, tuple(shape), storage.key, first_element)


def _size(values: Sequence[int] = ()) -> tuple[int, ...]:
    _check_sizes(values)
    return tuple(values)


def _check_sizes(values: Sequence[int]) -> None:
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("it has an invalid size")


class _OrderedDict(dict[Any, Any]):
    """A state dict; its attributes, such as the versions of the modules, are ignored."""

    def __setstate__(self, state: Any) -> None:
        pass


def _record(kind: str) -> type[Record]:
    return type(kind, (Record,), {"kind": kind})


def _ignored(*arguments: Any) -> None:
    """Replaces objects that are ignored: layouts, memory formats, the path that the checkpoint was saved to."""


METADATA_CLASSES: Mapping[tuple[str, str], Any] = {
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{
        ("torch.distributed.checkpoint.metadata", kind): _record(kind)
        for kind in (
            "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
            "MetadataIndex", "StorageMeta",
        )
    },
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): _Call(_ignored),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _record("_StorageInfo"),
    ("torch", "Size"): _Call(_size),
    ("torch.serialization", "_get_layout"): _Call(_ignored),
    **{("pathlib", kind): _Call(_ignored) for kind in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")},
    **{("pathlib._local", kind): _Call(_ignored) for kind in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")},
    ("collections", "OrderedDict"): dict,
}  # fmt: skip
"""Allowed in the `.metadata` of a checkpoint."""
TENSOR_CLASSES: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_rebuild),
    **{("torch", storage): dtype for storage, dtype in _STORAGE_DTYPES.items()},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    ("torch.storage", "UntypedStorage"): "U8",
    ("collections", "OrderedDict"): dict,
}
"""Allowed in a file with one tensor."""
STATE_CLASSES: Mapping[tuple[str, str], Any] = {
    **TENSOR_CLASSES,
    ("torch_xla.utils.serialization", "TensorReference"): _record("TensorReference"),
    ("collections", "OrderedDict"): _OrderedDict,
}
"""Allowed in a file with a state dict, of tensors or references to them."""


def unreadable_file(name: str, reason: str) -> AirsmithError:
    """The error for an unreadable torch file."""
    return AirsmithError(ErrorKind.BAD_DATA, f"{name} is not a readable torch file: {reason}.", _HINT)
