"""Tokens on disk: safetensors shards of flat `tokens`, row `offsets` and `loss_mask`, listed in `index.json`."""

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
"""Tokens that are put into rows together and make a shard: 4 bytes each and one of mask, so about 80 MiB."""
WINDOW_SAMPLES = 256 * 1024
"""Samples that are put into rows together; there are so many in a window only where they are very short."""
_PIECE_BYTES = 4 * 1024 * 1024
_TYPES: Mapping[str, str] = {"int64": "I64", "uint32": "U32", "uint8": "U8"}
"""The format's name of a numpy type."""
_DTYPES = {name: np.dtype(dtype) for dtype, name in _TYPES.items()}

Arrange = Callable[[Sequence[int], int], Sequence[Sequence[int]]]
"""Which samples form a row: from the lengths of a window's samples and the window's number to their indices by row."""


class JoinedArrays:
    """Arrays one after the other as if they were one: they stay where they are, on the disk for example."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, stretch: slice) -> NDArray[Any]:
        """A stretch; copied only where it reaches over several parts, which no row does."""
        begin, end, _ = stretch.indices(len(self))
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

    :param tokens: uint32 [T], all rows one after the other.
    :param offsets: int64 [rows + 1], where each row begins.
    :param loss_mask: uint8 [T], 1 where a token is learnt, that is predicted from the token before it.
    :param sample_offsets: int64 [samples + 1], where each sample begins; equal to offsets where nothing is packed.
    """

    tokens: NDArray[np.uint32] | JoinedArrays
    offsets: NDArray[np.int64]
    loss_mask: NDArray[np.uint8] | JoinedArrays
    sample_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def build_rows(samples: Sequence[Sample], rows: Sequence[Sequence[int]]) -> TokenRows:
    """Put samples into rows.

    :param rows: indices of the samples of each row.
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
    """A row for every sample."""
    return [[index] for index in range(len(lengths))]


def write_split(split: str, samples: Iterable[Sample], arrange: Arrange, output: ArtifactWriter) -> dict[str, Any]:
    """Write a split into an artifact, a shard for each window of samples; no more than a window is in memory.

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
    """All rows of a split in a tokens artifact's files; the tokens and masks are read when they are looked at."""
    index = json.loads((folder / INDEX_FILE).read_text())
    shards = [_mapped(folder / name) for name in shard_names(index, split)]
    return TokenRows(
        tokens=JoinedArrays([shard["tokens"] for shard in shards]),
        offsets=_joined_offsets([shard["offsets"] for shard in shards]),
        loss_mask=JoinedArrays([shard["loss_mask"] for shard in shards]),
        sample_offsets=_joined_offsets([shard.get("sample_offsets", shard["offsets"]) for shard in shards]),
    )


def shard_names(index: dict[str, Any], split: str) -> list[str]:
    """Names of a split's files."""
    return [shard["name"] for shard in index["splits"][split]["shards"]]


def _windows(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples in lists of at most WINDOW_TOKENS and WINDOW_SAMPLES, at least one each."""
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
    """Write rows as a safetensors file, straight into the store; every tensor begins where its type may."""
    tensors: dict[str, NDArray[Any]] = {"offsets": rows.offsets}
    if len(rows.sample_offsets) != len(rows.offsets):
        tensors["sample_offsets"] = rows.sample_offsets
    tensors |= {"tokens": rows.tokens, "loss_mask": rows.loss_mask}
    head, header = make_header(((key, _TYPES[array.dtype.name], array.shape) for key, array in tensors.items()), {})
    output.add_stream(name, _pieces(head, tensors.values()), header.tensors[-1].end)


def _pieces(head: bytes, arrays: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    yield head
    for array in arrays:
        whole = memoryview(array).cast("B")
        for start in range(0, len(whole), _PIECE_BYTES):
            yield bytes(whole[start : start + _PIECE_BYTES])


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """A shard's tensors, read from the disk as they are looked at."""
    with path.open("rb") as file:
        header = read_header(path.name, path.stat().st_size, lambda begin, count: os.pread(file.fileno(), count, begin))
    return {
        tensor.name: np.memmap(path, _DTYPES[tensor.dtype], "r", tensor.begin, tensor.shape)
        for tensor in header.tensors
    }


def _joined_offsets(offsets: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of several shards as those of the whole."""
    joined = [np.zeros(1, dtype=np.int64)]
    for shard in offsets:
        joined.append(shard[1:] + joined[-1][-1])
    return np.concatenate(joined)
