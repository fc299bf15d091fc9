"""Pickles of torch, read without running anything that they name, and without torch.

torch itself unpickles a checkpoint's `.metadata` with plain `pickle.load`, which runs whatever the file says. Here a
pickle may name the few classes of the tables below and nothing else; each of them becomes plain data.
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
"""Names of the safetensors format's types, by torch's."""

_STORAGE_DTYPES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
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
class _Storage:
    dtype: str
    key: str


@dataclass(frozen=True)
class DescribedTensor:
    """A tensor as a pickle describes it; its elements lie in another member of the archive.

    :param key: that member's.
    """

    dtype: str
    shape: tuple[int, ...]
    key: str
    first_element: int


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


def unpickle(name: str, content: bytes, known: Mapping[tuple[str, str], Any]) -> Any:
    """The object of a pickle that may name what a table knows, and nothing else.

    :param name: of the file, for its refusal.
    :raises AirsmithError: `bad_data`, naming the file.
    """
    try:
        return _Unpickler(content, known).load()
    # Whatever a damaged pickle makes of the few names that it may use; nothing of it has run.
    except Exception as error:
        raise broken_file(name, str(error) or type(error).__name__) from error


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
) -> DescribedTensor:
    """`torch._utils._rebuild_tensor_v2` and `_v3`; the latter names the type itself."""
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
        raise ValueError("it has a size that is none")


class _OrderedDict(dict[Any, Any]):
    """A module's state, whose own attributes, as the versions of its parts, count for nothing here."""

    def __setstate__(self, state: Any) -> None:
        pass


def _record(kind: str) -> type[Record]:
    return type(kind, (Record,), {"kind": kind})


def _nothing(*arguments: Any) -> None:
    """Of what counts for nothing here: layouts, memory formats, the path that a checkpoint once had."""


METADATA: Mapping[tuple[str, str], Any] = {
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
"""What the `.metadata` of a checkpoint may name."""
TENSOR: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_rebuild),
    **{("torch", storage): dtype for storage, dtype in _STORAGE_DTYPES.items()},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    ("torch.storage", "UntypedStorage"): "U8",
    ("collections", "OrderedDict"): dict,
}
"""What one saved tensor may name."""
STATE: Mapping[tuple[str, str], Any] = {
    **TENSOR,
    ("torch_xla.utils.serialization", "TensorReference"): _record("TensorReference"),
    ("collections", "OrderedDict"): _OrderedDict,
}
"""What a saved state may name: tensors, or references to them."""


def broken_file(name: str, what: str) -> AirsmithError:
    """What a file of torch is refused with."""
    return AirsmithError(ErrorKind.BAD_DATA, f"{name} cannot be read as one of torch's files: {what}.", _HINT)
