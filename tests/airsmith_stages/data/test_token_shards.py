"""The file format of tokenized rows is deterministic and lossless."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.artifacts.store import Store
from airsmith_stages.data import token_shards
from airsmith_stages.data.overflow import Sample
from airsmith_stages.data.packing import pack
from airsmith_stages.data.token_shards import (
    Arrange,
    JoinedArrays,
    build_rows,
    one_sample_per_row,
    read_rows,
    shard_names,
    write_split,
)
from airsmith_stages.training.rows import IGNORED_LABEL, Collator, RowDataset
from tests.support.stage_runs import contents

MAX_LENGTH = 16


def sample_of(size: int, first: int = 0) -> Sample:
    return Sample(np.arange(size, dtype=np.uint32) + first, np.array([0] + [1] * (size - 1), np.uint8))


samples = st.lists(st.integers(2, MAX_LENGTH), min_size=1, max_size=25).map(
    lambda sizes: [sample_of(size, 100 * number) for number, size in enumerate(sizes)]
)


def packed_rows(lengths: Sequence[int], window: int) -> list[list[int]]:
    return pack(lengths, MAX_LENGTH, window)


def written(samples: list[Sample], arrange: Arrange, window_tokens: int) -> tuple[Artifact, dict[str, Any]]:
    store = Store.open(f"memory://{uuid.uuid4()}")
    with (
        patch.object(token_shards, "WINDOW_TOKENS", window_tokens),
        write_artifact(store, "artifacts/tokens/x", type="tokens", digest="x", inputs={}, versions={}) as output,
    ):
        entry = write_split("train", iter(samples), arrange, output)
        output.add_bytes("index.json", json.dumps({"splits": {"train": entry}}).encode())
        return output.publish(), entry


@given(samples=samples, arrange=st.sampled_from([packed_rows, one_sample_per_row]), window_tokens=st.integers(1, 120))
def test_written_samples_are_read_from_any_number_of_shards(
    samples: list[Sample], arrange: Arrange, window_tokens: int
) -> None:
    artifact, entry = written(samples, arrange, window_tokens)
    with tempfile.TemporaryDirectory() as folder:
        local = artifact.download(Path(folder) / "local")
        again = read_rows(local, "train")
        read = [
            (again.tokens[start:end].tolist(), again.loss_mask[start:end].tolist())
            for start, end in pairwise(again.sample_offsets)
        ]
        shards = [load_file(local / name) for name in shard_names({"splits": {"train": entry}}, "train")]
    expected = [(sample.tokens.tolist(), sample.loss_mask.tolist()) for sample in samples]
    assert read == expected if arrange is one_sample_per_row else sorted(read) == sorted(expected)
    assert np.diff(again.offsets).max() <= MAX_LENGTH
    assert set(again.offsets) <= set(again.sample_offsets)
    for shard in shards:
        assert {n: t.dtype for n, t in shard.items() if n != "sample_offsets"} == {
            "tokens": np.uint32, "offsets": np.int64, "loss_mask": np.uint8,
        }  # fmt: skip
        assert shard["offsets"][0] == 0
        assert shard["offsets"][-1] == len(shard["tokens"]) == len(shard["loss_mask"])
        assert len(shard["tokens"]) <= window_tokens or len(shard.get("sample_offsets", shard["offsets"])) == 2
    assert [(s["rows"], s["tokens"]) for s in entry["shards"]] == [
        (len(shard["offsets"]) - 1, len(shard["tokens"])) for shard in shards
    ]
    assert (entry["rows"], entry["examples"]) == (len(again), len(samples))
    assert (entry["tokens"], entry["loss_tokens"]) == (len(again.tokens), int(again.loss_mask.sum()))


def test_the_number_of_samples_in_a_window_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_shards, "WINDOW_SAMPLES", 2)
    _, entry = written([sample_of(3)] * 5, one_sample_per_row, 100)
    assert [shard["rows"] for shard in entry["shards"]] == [2, 2, 1]


def test_the_same_samples_give_the_same_bytes() -> None:
    first, second = (contents(written([sample_of(9)] * 3, packed_rows, 18)[0]) for _ in range(2))
    assert first == second
    assert len(first) == 3


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), begin=st.integers(0, 30), size=st.integers(0, 30))
def test_arrays_are_joined_without_copying(sizes: list[int], begin: int, size: int) -> None:
    whole = np.arange(sum(sizes))
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    joined = JoinedArrays(parts)
    stretch = joined[begin : begin + size]
    assert stretch.tolist() == whole[begin : begin + size].tolist()
    assert (len(joined), joined.max(), joined.sum()) == (len(whole), len(whole) - 1, whole.sum())
    inside_one = any(set(stretch.tolist()) <= set(part.tolist()) for part in parts)
    assert np.shares_memory(stretch, whole) == (inside_one and len(stretch) > 0)


@given(samples=samples)
def test_isolated_samples_have_positions_that_restart(samples: list[Sample]) -> None:
    rows = RowDataset(build_rows(samples, pack([len(sample.tokens) for sample in samples], MAX_LENGTH, 1)))
    batch = Collator(0, isolate_samples=True)([rows[index] for index in range(len(rows))])
    seen = []
    for tokens, positions, labels in zip(batch["input_ids"], batch["position_ids"], batch["labels"], strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(tokens)]
        for start, end in pairwise(starts):
            assert positions[start:end].tolist() == list(range(end - start))
            if (labels[start:end] != IGNORED_LABEL).any():  # The remainder is padding.
                assert labels[start] == IGNORED_LABEL
                assert labels[start + 1 : end].tolist() == tokens[start + 1 : end].tolist()
                seen.append(tokens[start:end].tolist())
    assert sorted(seen) == sorted(sample.tokens.tolist() for sample in samples)
    assert "attention_mask" not in batch


@given(samples=samples)
def test_a_row_across_samples_is_one_sequence(samples: list[Sample]) -> None:
    rows = RowDataset(build_rows(samples, pack([len(sample.tokens) for sample in samples], MAX_LENGTH, 1)))
    batch = Collator(0, isolate_samples=False)([rows[index] for index in range(len(rows))])
    assert "position_ids" not in batch
    assert (batch["labels"] != IGNORED_LABEL).sum() == sum(int(sample.loss_mask.sum()) for sample in samples)
