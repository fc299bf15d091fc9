"""Stream the base's files once, from first byte to last, and yield the merged tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from airsmith.artifacts.objects import Piece
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.merging.adapter import matrix_shape, verification_failed
from airsmith_stages.merging.changes import Change
from airsmith_stages.merging.elements import Floats, are_finite, bits_of, from_floats, rounded, to_floats
from airsmith_stages.merging.plan import MergedTensor, MergePlan
from airsmith_stages.weights.cursor import Cursor, prefetch
from airsmith_stages.weights.header import ITEM_BYTES, Header, Tensor, read_header
from airsmith_stages.weights.model import Weights
from airsmith_stages.weights.readers import FileReader

BLOCK_BYTES = 1 << 20
"""Size of a block of rows of a changed tensor; small enough for a core's cache."""


def merged_tensors(base: Weights, plan: MergePlan, changed_elements: dict[str, int]) -> Iterator[Iterator[Piece]]:
    """Yield the merged tensors one after another, each in pieces that must be consumed before the next tensor.

    :param changed_elements: receives the number of changed elements of each tensor with edits.
    :raises AirsmithError: `verification_failed` if the base's bytes are not those that were published (checked after
        the last byte of a file), an edit does not fit, or the result is not finite.
    """
    outputs: dict[str, list[MergedTensor]] = {}
    for merged in plan.tensors:
        outputs.setdefault(merged.base.name, []).append(merged)
    for file, header in base.headers.items():
        cursor = Cursor(prefetch(base.source.stream(file)))
        _check_head(file, header, cursor)
        for tensor in header.tensors:
            if tensor.name not in outputs:
                cursor.skip(tensor.size_bytes)
                continue
            seen = hashlib.sha256() if len(outputs[tensor.name]) > 1 else None
            for merged in outputs[tensor.name]:
                blocks = _blocks(merged, file, base.source, cursor, seen)
                yield _changed(merged, blocks, changed_elements) if merged.edits else _cast(merged, blocks)
        cursor.finish()


def _check_head(file: str, header: Header, cursor: Cursor) -> None:
    """Compare the header in the verified stream with the one that the plan was made from."""
    begin = min((tensor.begin for tensor in header.tensors), default=0)
    head = b"".join(cursor.pieces(begin))
    size_bytes = max((tensor.end for tensor in header.tensors), default=0)
    if read_header(file, size_bytes, lambda offset, length: head[offset : offset + length]) != header:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED, f"{file} of the base changed during the merge.", "Run the stage again."
        )


def _blocks(
    merged: MergedTensor, file: str, source: FileReader, cursor: Cursor, seen: hashlib._Hash | None
) -> Iterator[Piece]:
    """The base's bytes of a tensor; those of a copy are read a second time and must be equal."""
    tensor = merged.base
    if merged.is_unchanged and seen is None:
        return cursor.pieces(tensor.size_bytes)
    row_bytes = matrix_shape(tensor.shape)[1] * ITEM_BYTES[tensor.dtype]
    block_bytes = max(1, BLOCK_BYTES // max(1, row_bytes)) * row_bytes
    if merged.is_copy and seen is not None:
        return _seen_again(tensor, file, source, block_bytes, seen.digest())
    blocks = cursor.blocks(tensor.size_bytes, block_bytes)
    return blocks if seen is None else _remembered(blocks, seen)


def _remembered(blocks: Iterable[Piece], seen: hashlib._Hash) -> Iterator[Piece]:
    for block in blocks:
        seen.update(block)
        yield block


def _seen_again(tensor: Tensor, file: str, source: FileReader, block_bytes: int, expected: bytes) -> Iterator[Piece]:
    digest = hashlib.sha256()
    for offset in range(tensor.begin, tensor.end, block_bytes):
        block = source.read_range(file, offset, min(block_bytes, tensor.end - offset))
        digest.update(block)
        yield block
    if digest.digest() != expected:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"Two reads of {tensor.name} of the base returned different bytes.",
            "Run the stage again.",
        )


def _cast(merged: MergedTensor, blocks: Iterator[Piece]) -> Iterator[Piece]:
    """A tensor without edits, converted to its new type."""
    if merged.is_unchanged:
        yield from blocks
        return
    for raw in blocks:
        yield _bits(merged, to_floats(raw, merged.base.dtype)).data.cast("B")


def _changed(merged: MergedTensor, blocks: Iterator[Piece], changed_elements: dict[str, int]) -> Iterator[Piece]:
    """A tensor with all its edits applied, in blocks of rows."""
    changes = [placed.load() for placed in merged.edits]
    changed_elements[merged.name] = 0
    first = 0
    for raw in _regrouped(merged, changes, blocks):
        values = to_floats(raw, merged.base.dtype).reshape(-1, matrix_shape(merged.shape)[1])
        if merged.dtype != merged.base.dtype:
            values = rounded(values, merged.dtype).reshape(values.shape)
        before = _bits(merged, values.copy()) if merged.dtype != merged.base.dtype else bits_of(raw, merged.dtype)
        count = len(values)
        for number, change in enumerate(changes):
            if number:
                values = rounded(values.reshape(-1), merged.dtype).reshape(count, -1)
            values = change.apply(values, first, merged.dtype)
        after = _bits(merged, values)
        changed_elements[merged.name] += int(np.count_nonzero(after != before))
        first += count
        yield after.data.cast("B")


def _regrouped(merged: MergedTensor, changes: list[Change], blocks: Iterator[Piece]) -> Iterator[Piece]:
    """Blocks as the changes need them: all rows at once, or zeros if the merged tensor has another number of rows."""
    if merged.shape != merged.base.shape:
        for _ in blocks:
            pass
        rows, columns = matrix_shape(merged.shape)
        row_bytes = columns * ITEM_BYTES[merged.base.dtype]
        block_rows = max(1, BLOCK_BYTES // row_bytes)
        for first in range(0, rows, block_rows):
            yield bytes(min(block_rows, rows - first) * row_bytes)
    elif any(change.whole for change in changes):
        yield b"".join(blocks)
    else:
        yield from blocks


def _bits(merged: MergedTensor, values: Floats) -> npt.NDArray[Any]:
    bits = from_floats(np.ascontiguousarray(values).reshape(-1), merged.dtype)
    if not are_finite(bits, merged.dtype):
        raise verification_failed(
            f"The merged {merged.name} contains NaN or Inf in {merged.dtype}", "Set model.dtype to 'float32'."
        )
    return bits
