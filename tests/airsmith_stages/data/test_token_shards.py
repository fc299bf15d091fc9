"""Rows on disk: the format that training and later tools read, the same bytes each time, every token back."""

from __future__ import annotations

import json
import tempfile
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from data_fixtures import contents
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.artifacts.store import Store
from airsmith_stages.data import token_shards
from airsmith_stages.data.overflow import Sample
from airsmith_stages.data.packing import pack
from airsmith_stages.data.token_shards import TokenRows, read_rows, rows_of, shard_names, write_rows
from airsmith_stages.training.rows import IGNORED_LABEL, Collator, RowDataset

LONGEST = 16
samples = st.lists(st.integers(2, LONGEST), min_size=1, max_size=25).map(
    lambda sizes: [
        Sample(np.arange(size, dtype=np.uint32) + 100 * number, np.array([0] + [1] * (size - 1), np.uint8))
        for number, size in enumerate(sizes)
    ]
)


def written(folder: Path, rows: TokenRows, shard_tokens: int) -> tuple[Artifact, dict[str, Any]]:
    store = Store.open(f"memory://{uuid.uuid4()}")
    with (
        patch.object(token_shards, "SHARD_TOKENS", shard_tokens),
        write_artifact(store, "artifacts/tokens/x", type="tokens", digest="x", inputs={}, versions={}) as output,
    ):
        entry = write_rows("train", rows, output, folder)
        output.add_bytes("index.json", json.dumps({"splits": {"train": entry}}).encode())
        return output.publish(), entry


@given(samples=samples, packed=st.booleans(), shard_tokens=st.integers(1, 120))
def test_what_is_written_is_read_in_whatever_shards(samples: list[Sample], packed: bool, shard_tokens: int) -> None:
    layout = pack([len(s.tokens) for s in samples], LONGEST, 1) if packed else [[n] for n in range(len(samples))]
    rows = rows_of(samples, layout)
    with tempfile.TemporaryDirectory() as folder:
        artifact, entry = written(Path(folder), rows, shard_tokens)
        local = artifact.download(Path(folder) / "local")
        again = read_rows(local, "train")
        shards = [load_file(local / name) for name in shard_names({"splits": {"train": entry}}, "train")]
    for field in ("tokens", "offsets", "loss_mask", "sample_offsets"):
        assert getattr(again, field).dtype == getattr(rows, field).dtype
        assert (getattr(again, field) == getattr(rows, field)).all()
    for shard in shards:
        assert {n: t.dtype for n, t in shard.items() if n != "sample_offsets"} == {
            "tokens": np.uint32, "offsets": np.int64, "loss_mask": np.uint8,
        }  # fmt: skip
        assert shard["offsets"][0] == 0
        assert shard["offsets"][-1] == len(shard["tokens"]) == len(shard["loss_mask"])
        assert len(shard["tokens"]) <= shard_tokens or len(shard["offsets"]) == 2
    assert [(s["rows"], s["tokens"]) for s in entry["shards"]] == [
        (len(shard["offsets"]) - 1, len(shard["tokens"])) for shard in shards
    ]
    assert (entry["rows"], entry["examples"]) == (len(layout), len(samples))
    assert (entry["tokens"], entry["loss_tokens"]) == (len(rows.tokens), int(rows.loss_mask.sum()))


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    rows = rows_of([Sample(np.arange(9, dtype=np.uint32), np.ones(9, np.uint8))] * 3, [[0, 1], [2]])
    first, second = (contents(written(tmp_path, rows, 18)[0]) for _ in range(2))
    assert first == second
    assert len(first) == 3


@given(samples=samples)
def test_training_sees_every_sample_alone_at_positions_that_restart(samples: list[Sample]) -> None:
    rows = RowDataset(rows_of(samples, pack([len(sample.tokens) for sample in samples], LONGEST, 1)))
    batch = Collator(0, isolate_samples=True)([rows[index] for index in range(len(rows))])
    seen = []
    for tokens, positions, labels in zip(batch["input_ids"], batch["position_ids"], batch["labels"], strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(tokens)]
        for start, end in pairwise(starts):
            assert positions[start:end].tolist() == list(range(end - start))
            if (labels[start:end] != IGNORED_LABEL).any():  # What is left over is padding.
                assert labels[start] == IGNORED_LABEL
                assert labels[start + 1 : end].tolist() == tokens[start + 1 : end].tolist()
                seen.append(tokens[start:end].tolist())
    assert sorted(seen) == sorted(sample.tokens.tolist() for sample in samples)
    assert "attention_mask" not in batch


@given(samples=samples)
def test_across_samples_a_row_is_one_text(samples: list[Sample]) -> None:
    rows = RowDataset(rows_of(samples, pack([len(sample.tokens) for sample in samples], LONGEST, 1)))
    batch = Collator(0, isolate_samples=False)([rows[index] for index in range(len(rows))])
    assert "position_ids" not in batch
    assert (batch["labels"] != IGNORED_LABEL).sum() == sum(int(sample.loss_mask.sum()) for sample in samples)
