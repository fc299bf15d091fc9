"""Tokens on disk: safetensors shards of flat `tokens`, row `offsets` and `loss_mask`, listed in `index.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from airsmith.artifacts.publish import ArtifactWriter
from airsmith_stages.data.overflow import Sample

INDEX_FILE = "index.json"
PROMPTS_FILE = "validation_prompts.jsonl"
SAMPLE_FILE = "sample.txt"
FORMAT = 1
SHARD_TOKENS = 48 * 1024 * 1024
"""Tokens per shard: 4 bytes each and one of mask, so about 240 MiB."""


@dataclass(frozen=True)
class TokenRows:
    """Rows of tokens.

    :param tokens: uint32 [T], all rows one after the other.
    :param offsets: int64 [rows + 1], where each row begins.
    :param loss_mask: uint8 [T], 1 where a token is learnt, that is predicted from the token before it.
    :param sample_offsets: int64 [samples + 1], where each sample begins; equal to offsets where nothing is packed.
    """

    tokens: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    loss_mask: NDArray[np.uint8]
    sample_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def rows_of(samples: Sequence[Sample], rows: Sequence[Sequence[int]]) -> TokenRows:
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


def write_rows(split: str, rows: TokenRows, output: ArtifactWriter, scratch: Path) -> dict[str, Any]:
    """Write a split's rows into an artifact, shard by shard.

    :returns: the split's entry for `index.json`.
    """
    shards = []
    for number, shard in enumerate(_cut(rows)):
        name = f"{split}-{number:05d}.safetensors"
        tensors = {"tokens": shard.tokens, "offsets": shard.offsets, "loss_mask": shard.loss_mask}
        if len(shard.sample_offsets) != len(shard.offsets):
            tensors["sample_offsets"] = shard.sample_offsets
        save_file(tensors, scratch / name)
        output.add_file(name, scratch / name)
        (scratch / name).unlink()
        shards.append({"name": name, "rows": len(shard), "tokens": len(shard.tokens)})
    return {
        "rows": len(rows),
        "tokens": len(rows.tokens),
        "loss_tokens": int(rows.loss_mask.sum()),
        "examples": len(rows.sample_offsets) - 1,
        "shards": shards,
    }


def read_rows(folder: Path, split: str) -> TokenRows:
    """Read all rows of a split from a tokens artifact's files."""
    index = json.loads((folder / INDEX_FILE).read_text())
    shards = [load_file(folder / shard["name"]) for shard in index["splits"][split]["shards"]]
    return TokenRows(
        tokens=np.concatenate([shard["tokens"] for shard in shards]),
        offsets=_joined([shard["offsets"] for shard in shards]),
        loss_mask=np.concatenate([shard["loss_mask"] for shard in shards]),
        sample_offsets=_joined([shard.get("sample_offsets", shard["offsets"]) for shard in shards]),
    )


def shard_names(index: dict[str, Any], split: str) -> list[str]:
    """Names of a split's files."""
    return [shard["name"] for shard in index["splits"][split]["shards"]]


def _cut(rows: TokenRows) -> Iterator[TokenRows]:
    """Rows in shards of at most SHARD_TOKENS tokens, at least one row each."""
    first = 0
    while first < len(rows):
        begin = rows.offsets[first]
        fitting = int(np.searchsorted(rows.offsets, begin + SHARD_TOKENS, side="right")) - 1
        last = max(first + 1, fitting)
        end = rows.offsets[last]
        inside = (rows.sample_offsets >= begin) & (rows.sample_offsets <= end)
        yield TokenRows(
            tokens=rows.tokens[begin:end],
            offsets=rows.offsets[first : last + 1] - begin,
            loss_mask=rows.loss_mask[begin:end],
            sample_offsets=rows.sample_offsets[inside] - begin,
        )
        first = last


def _joined(offsets: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of several shards as those of the whole."""
    joined = [np.zeros(1, dtype=np.int64)]
    for shard in offsets:
        joined.append(shard[1:] + joined[-1][-1])
    return np.concatenate(joined)
