"""Convert elements of weights to float32 and back, with the same single rounding as torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from airsmith.artifacts.objects import Piece
from airsmith_stages.weights.header import ITEM_BYTES

Floats: TypeAlias = npt.NDArray[np.float32]

FLOATING = ("F32", "BF16", "F16")
"""Types that a merge can change, by their names in the safetensors format."""
DTYPE_NAMES: Mapping[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""The same types, by their names in torch."""

_LARGEST_FINITE = {"BF16": np.uint16(0x7F7F), "F16": np.uint16(0x7BFF), "F32": np.uint32(0x7F7FFFFF)}
_WITHOUT_SIGN = {"BF16": np.uint16(0x7FFF), "F16": np.uint16(0x7FFF), "F32": np.uint32(0x7FFFFFFF)}


def to_floats(raw: Piece, dtype: str) -> Floats:
    """Elements as float32, exactly, in a writable copy."""
    if dtype == "F32":
        return np.frombuffer(raw, np.float32).copy()
    if dtype == "F16":
        return np.frombuffer(raw, np.float16).astype(np.float32)
    if dtype == "BF16":
        widened = np.frombuffer(raw, np.uint16).astype(np.uint32)
        widened <<= 16
        return widened.view(np.float32)
    raise ValueError(f"elements of type {dtype} are not floats")


def from_floats(values: Floats, dtype: str) -> npt.NDArray[Any]:
    """Round to a type, to nearest and ties to even; returns the bits as unsigned integers.

    float32 is not copied. The values may be overwritten.
    """
    if dtype == "F32":
        return values.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        odd = bits >> 16
        odd &= 1
        bits += odd
        bits += 0x7FFF
        bits >>= 16
        return bits.astype(np.uint16)
    raise ValueError(f"floats cannot become elements of type {dtype}")


def rounded(values: Floats, dtype: str) -> Floats:
    """Round values to a type and back to float32. The values may be overwritten."""
    if dtype == "F32":
        return values
    shape = values.shape
    bits = from_floats(np.ascontiguousarray(values).reshape(-1), dtype)
    return to_floats(bits.data.cast("B"), dtype).reshape(shape)


def are_finite(bits: npt.NDArray[Any], dtype: str) -> bool:
    """Whether elements, given as their bits, contain neither NaN nor Inf."""
    return bits.size == 0 or bool((bits & _WITHOUT_SIGN[dtype]).max() <= _LARGEST_FINITE[dtype])


def bits_of(raw: Piece, dtype: str) -> npt.NDArray[Any]:
    """The bits of elements as unsigned integers, without a copy."""
    return np.frombuffer(raw, np.uint32 if ITEM_BYTES[dtype] == 4 else np.uint16)
