"""Damaged files are refused by name, with no other exception, and no code in them runs.

Each run draws a twentieth of the inputs; AIRSMITH_TEST_LONG=1 takes all of them and writes `damaged_files.json`. A
failure prints its seed, and AIRSMITH_TEST_SEED repeats it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from airsmith.errors import AirsmithError
from airsmith_stages.consolidating.assembly import WriteFile, consolidate
from airsmith_stages.consolidating.dcp import read_dcp
from airsmith_stages.consolidating.hugging_face import read_hugging_face
from airsmith_stages.consolidating.optimum_neuron import ADAPTER_SHARDS, read_optimum_neuron
from airsmith_stages.consolidating.replicas import spread_of
from airsmith_stages.merging.model import merge_model
from airsmith_stages.weights.model import open_weights
from airsmith_stages.weights.readers import FolderReader
from tests.support import file_damage
from tests.support.neuron_shards import save_neuron_shards

ALL_INPUTS = 6750
IS_LONG = os.environ.get("AIRSMITH_TEST_LONG") == "1"
ALWAYS_BAD = (file_damage.canary, file_damage.truncated_shard, file_damage.adapter, file_damage.adapter_config)
NEVER_HARMLESS = (*ALWAYS_BAD, file_damage.missing_file, file_damage.missing_rank_file, file_damage.rank_canary)
INCONSISTENT = re.compile(r"\.distcp|elements: a chunk is missing|contains no tensor")
"""Messages about a readable `.metadata` that does not match the files beside it."""
RESULTS = Path(__file__).with_name("damaged_files.json")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded model with its config, an adapter, and a checkpoint in each format."""
    folder = tmp_path_factory.mktemp("intact")
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(4)]
    for number, name in enumerate(names, start=1):
        save_file({name: torch.randn(8, 8)}, folder / f"model-{number:05d}-of-00004.safetensors", {"format": "pt"})
    placed = {name: f"model-{number:05d}-of-00004.safetensors" for number, name in enumerate(names, start=1)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    parts = {"lora_A": (2, 8), "lora_B": (8, 2)}
    adapter = {
        f"base_model.model.{name.removesuffix('weight')}{part}.weight": torch.randn(shape)
        for name in names
        for part, shape in parts.items()
    }
    save_file(adapter, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    dcp.save({name: torch.randn(8, 8) for name in names}, checkpoint_id=folder / "saved")
    for file in (folder / "saved").iterdir():
        file.rename(folder / file.name)
    (folder / "saved").rmdir()
    for number in (1, 2):  # as HuggingFaceStorageWriter writes them
        places = {name: {"saved_offsets": [4 * (number - 1), 0]} for name in names}
        rows = {name: torch.randn(4, 8) for name in names}
        file = folder / f"shard-{number:05d}-model-00001-of-00001.safetensors"
        save_file(rows, file, {"DCP_SHARDING_INFO": json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"})
    save_neuron_shards(folder / "adapter_shards")
    return folder


@pytest.fixture(scope="module")
def outcomes_counted() -> Iterator[Counter[str]]:
    outcomes: Counter[str] = Counter()
    yield outcomes
    if IS_LONG:
        RESULTS.write_text(json.dumps({"inputs": outcomes.total(), **dict(sorted(outcomes.items()))}, indent=2) + "\n")


def merged(folder: Path, write: WriteFile) -> None:
    merge_model(FolderReader(folder), FolderReader(folder), write)


def consolidated(folder: Path, write: WriteFile) -> None:
    consolidate(read_dcp(FolderReader(folder)), write)


def consolidated_shards(folder: Path, write: WriteFile) -> None:
    consolidate(read_hugging_face(FolderReader(folder), ranks=2), write)


def consolidated_processes(folder: Path, write: WriteFile) -> None:
    checkpoint = read_optimum_neuron(FolderReader(folder), folder=ADAPTER_SHARDS, tp_size=4, pp_size=1)
    consolidate(checkpoint, write)
    spread_of(checkpoint)


def check_size(name: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
    assert sum(len(piece) for piece in pieces) == size_bytes


def is_refused_by_safetensors(folder: Path) -> bool:
    """Return whether the safetensors library refuses the weights as well."""
    try:
        for file in folder.glob("model-*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                list(opened.keys())
    except (SafetensorError, OSError, UnicodeDecodeError, OverflowError):
        return True
    return False


@pytest.mark.parametrize(
    ("kinds", "read"),
    [
        (file_damage.MODEL, merged),
        (file_damage.ADAPTER, merged),
        (file_damage.CHECKPOINT, consolidated),
        (file_damage.SHARDS, consolidated_shards),
        (file_damage.RANKS, consolidated_processes),
    ],
    ids=["model", "adapter", "checkpoint", "shards", "processes"],
)
def test_damaged_files_are_refused_by_name(
    intact: Path,
    tmp_path: Path,
    outcomes_counted: Counter[str],
    kinds: tuple[file_damage.Damage, ...],
    read: Callable[[Path, WriteFile], None],
) -> None:
    read(intact, check_size)
    first = int(os.environ.get("AIRSMITH_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    inputs = 1 if os.environ.get("AIRSMITH_TEST_SEED") else ALL_INPUTS // 5 // (1 if IS_LONG else 20)
    print(f"seeds {first} to {first + inputs - 1}")
    for number in range(first, first + inputs):
        seed = random.Random(number)
        kind = seed.choice(kinds)
        folder = tmp_path / str(number)
        shutil.copytree(intact, folder)
        named = kind(seed, folder)
        written: list[str] = []
        refusal = refused(read, folder, written, f"seed {number}: {kind.__name__}")
        outcomes_counted[f"{kind.__name__}: {'harmless' if refusal is None else 'refused'}"] += 1
        if refusal is None:
            assert kind not in NEVER_HARMLESS, f"seed {number}"
            assert not (kinds is file_damage.MODEL and is_refused_by_safetensors(folder)), f"seed {number}"
        else:
            assert named in refusal.message or INCONSISTENT.search(refusal.message), f"seed {number}: {refusal}"
            assert not written, f"seed {number}: {written} had been written"
        assert not (tmp_path / "ran").exists(), f"seed {number}: the canary ran"
        shutil.rmtree(folder)


def refused(
    read: Callable[[Path, WriteFile], None], folder: Path, written: list[str], what: str
) -> AirsmithError | None:
    """Return the refusal, if any; another exception fails the test."""

    def write(name: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        written.append(name)
        check_size(name, pieces, size_bytes)

    try:
        read(folder, write)
    except AirsmithError as refusal:
        return refusal
    except Exception as failure:
        raise AssertionError(f"{what} raises {failure!r}") from failure
    return None


def test_intact_files_are_accepted(intact: Path) -> None:
    open_weights(FolderReader(intact))
    for read in (merged, consolidated, consolidated_shards):
        read(intact, check_size)
