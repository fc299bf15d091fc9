"""Tokens on disk: safetensors shards with flat `tokens`, row `offsets` and `loss_mask`, listed in `index.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airsmith.artifacts.publish import ArtifactWriter
from airsmith_stages.data.overflow import Sample
from airsmith_stages.weights.header import make_header, read_header

INDEX_FILE = "index.json"
PROMPTS_FILE = "validation_prompts.jsonl"
SAMPLE_FILE = "sample.txt"
FORMAT = 1
WINDOW_TOKENS = 16 * 1024 * 1024
"""Tokens that are packed together into one shard: 4 bytes each and 1 of mask, about 80 MiB in total."""
WINDOW_SAMPLES = 256 * 1024
"""Maximum samples that are packed together; reached only if samples are very short."""
_PIECE_BYTES = 4 * 1024 * 1024
_TYPES: Mapping[str, str] = {"int64": "I64", "uint32": "U32", "uint8": "U8"}
"""Names of types in the format, by numpy's names."""
_DTYPES = {name: np.dtype(dtype) for dtype, name in _TYPES.items()}

Arrange = Callable[[Sequence[int], int], Sequence[Sequence[int]]]
"""Arranges samples in rows: takes a window's sample lengths and number, returns sample indices by row."""


class JoinedArrays:
    """Concatenated arrays without a copy, such as memory-mapped arrays on disk."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: slice) -> NDArray[Any]:
        """A slice; copied only if it spans several parts, which no row does."""
        begin, end, _ = key.indices(len(self))
        first = int(np.searchsorted(self._ends, begin, side="right"))
        pieces = []
        for part, part_end in zip(self._parts[first:], self._ends[first:].tolist(), strict=True):
            part_begin = part_end - len(part)
            pieces.append(part[max(begin - part_begin, 0) : max(end - part_begin, 0)])
            if end <= part_end:
                break
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [self._parts[0][:0]])

    def max(self) -> int:
        """The largest value."""
        return max(int(part.max()) for part in self._parts)

    def sum(self) -> int:
        """The sum of all values."""
        return sum(int(part.sum()) for part in self._parts)


@dataclass(frozen=True)
class TokenRows:
    """Rows of tokens.

    :param tokens: uint32 [T], all rows concatenated.
    :param offsets: int64 [rows + 1], start of each row.
    :param loss_mask: uint8 [T], 1 for tokens that contribute to the loss, predicted from the token before.
    :param sample_offsets: int64 [samples + 1], start of each sample; equal to offsets without packing.
    """

    tokens: NDArray[np.uint32] | JoinedArrays
    offsets: NDArray[np.int64]
    loss_mask: NDArray[np.uint8] | JoinedArrays
    sample_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def build_rows(samples: Sequence[Sample], rows: Sequence[Sequence[int]]) -> TokenRows:
    """Concatenate samples to rows.

    :param rows: sample indices of each row.
    """
    ordered = [samples[index] for row in rows for index in row]
    lengths = np.array([len(sample.tokens) for sample in ordered], dtype=np.int64)
    sample_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    samples_per_row = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return TokenRows(
        tokens=np.concatenate([sample.tokens for sample in ordered]),
        offsets=sample_offsets[samples_per_row],
        loss_mask=np.concatenate([sample.loss_mask for sample in ordered]),
        sample_offsets=sample_offsets,
    )


def one_sample_per_row(lengths: Sequence[int], window: int) -> list[list[int]]:
    """One row per sample, without packing."""
    return [[index] for index in range(len(lengths))]


def write_split(split: str, samples: Iterable[Sample], arrange: Arrange, output: ArtifactWriter) -> dict[str, Any]:
    """Write a split to an artifact, one shard per window of samples; holds one window in memory.

    :returns: the split's entry for `index.json`.
    """
    entry: dict[str, Any] = {"rows": 0, "tokens": 0, "loss_tokens": 0, "examples": 0, "shards": []}
    for number, window in enumerate(_windows(samples)):
        rows = build_rows(window, arrange([len(sample.tokens) for sample in window], number))
        name = f"{split}-{number:05d}.safetensors"
        _write_shard(name, rows, output)
        entry["rows"] += len(rows)
        entry["tokens"] += len(rows.tokens)
        entry["loss_tokens"] += int(rows.loss_mask.sum())
        entry["examples"] += len(window)
        entry["shards"].append({"name": name, "rows": len(rows), "tokens": len(rows.tokens)})
    return entry


def read_rows(folder: Path, split: str) -> TokenRows:
    """All rows of a split in a tokens artifact's files; tokens and masks are memory-mapped."""
    index = json.loads((folder / INDEX_FILE).read_text())
    shards = [_mapped(folder / name) for name in shard_names(index, split)]
    return TokenRows(
        tokens=JoinedArrays([shard["tokens"] for shard in shards]),
        offsets=_joined_offsets([shard["offsets"] for shard in shards]),
        loss_mask=JoinedArrays([shard["loss_mask"] for shard in shards]),
        sample_offsets=_joined_offsets([shard.get("sample_offsets", shard["offsets"]) for shard in shards]),
    )


def shard_names(index: dict[str, Any], split: str) -> list[str]:
    """Names of a split's shard files."""
    return [shard["name"] for shard in index["splits"][split]["shards"]]


def _windows(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples in non-empty lists of at most WINDOW_TOKENS and WINDOW_SAMPLES."""
    window: list[Sample] = []
    tokens = 0
    for sample in samples:
        if window and (tokens + len(sample.tokens) > WINDOW_TOKENS or len(window) == WINDOW_SAMPLES):
            yield window
            window, tokens = [], 0
        window.append(sample)
        tokens += len(sample.tokens)
    if window:
        yield window


def _write_shard(name: str, rows: TokenRows, output: ArtifactWriter) -> None:
    """Write rows as a safetensors file directly to the store, with aligned tensors."""
    tensors: dict[str, NDArray[Any]] = {"offsets": rows.offsets}
    if len(rows.sample_offsets) != len(rows.offsets):
        tensors["sample_offsets"] = rows.sample_offsets
    tensors |= {"tokens": rows.tokens, "loss_mask": rows.loss_mask}
    header_bytes, header = make_header(
        ((key, _TYPES[array.dtype.name], array.shape) for key, array in tensors.items()), {}
    )
    output.add_stream(name, _pieces(header_bytes, tensors.values()), header.tensors[-1].end)


def _pieces(header_bytes: bytes, arrays: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    yield header_bytes
    for array in arrays:
        whole = memoryview(array).cast("B")
        for start in range(0, len(whole), _PIECE_BYTES):
            yield bytes(whole[start : start + _PIECE_BYTES])


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """A shard's memory-mapped tensors."""
    with path.open("rb") as file:
        header = read_header(path.name, path.stat().st_size, lambda begin, count: os.pread(file.fileno(), count, begin))
    return {
        tensor.name: np.memmap(path, _DTYPES[tensor.dtype], "r", tensor.begin, tensor.shape)
        for tensor in header.tensors
    }


def _joined_offsets(offsets: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Join the offsets of several shards."""
    joined = [np.zeros(1, dtype=np.int64)]
    for shard in offsets:
        joined.append(shard[1:] + joined[-1][-1])
    return np.concatenate(joined)
