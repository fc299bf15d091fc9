"""Damaged or mismatched shards are rejected with the file's name; replicas that differ are reported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.consolidating.checkpoint import check
from airsmith_stages.consolidating.optimum_neuron import ADAPTER_SHARDS, read_optimum_neuron
from airsmith_stages.consolidating.replicas import Spread
from airsmith_stages.weights.readers import FolderReader
from tests.support.neuron_adapters import (
    GATE_UP,
    QKV,
    Case,
    ShardedAdapters,
    Tensors,
    assert_equal_tensors,
    consolidated,
    expected_tensors,
)
from tests.support.neuron_models import Split

TWO_RANKS_XSER, TWO_RANKS_PLAIN = Case("llama", Split(2)), Case("llama", Split(2, use_xser=False))


@pytest.fixture
def saved(adapters: ShardedAdapters, tmp_path: Path) -> Path:
    """A copy of an adapter's shards, of two ranks in xser files, for a test to damage."""
    return Path(shutil.copytree(adapters.shards(TWO_RANKS_XSER), tmp_path / "saved"))


@pytest.fixture
def saved_plain(adapters: ShardedAdapters, tmp_path: Path) -> Path:
    """A copy in plain files."""
    return Path(shutil.copytree(adapters.shards(TWO_RANKS_PLAIN), tmp_path / "plain"))


def state_file(folder: Path, rank: int) -> Path:
    return folder / f"adapter_shards/model/dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt"


def rejection(folder: Path, split: Split = TWO_RANKS_XSER.split) -> str:
    with pytest.raises(AirsmithError) as refused:
        check(
            read_optimum_neuron(
                FolderReader(folder), folder=ADAPTER_SHARDS, tp_size=split.tensor, pp_size=split.pipeline
            )
        )
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert refused.value.hint
    return refused.value.message


def change(file: Path, how: Callable[[Tensors], object]) -> None:
    state = torch.load(file, weights_only=True)
    how(state)
    torch.save(state, file)


NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"


class TestRejected:
    """Each error names the file; no output is written."""

    def test_a_missing_rank(self, saved: Path) -> None:
        state_file(saved, 1).unlink()
        assert rejection(saved).startswith(f"adapter_shards/model/{state_file(saved, 1).name} is missing")

    def test_more_ranks_than_the_training_had(self, saved: Path) -> None:
        assert "tp_rank_01_pp_rank_00.pt belongs to none of the 1 × 1 processes" in rejection(saved, Split(1))

    def test_metadata_for_fewer_ranks(self, saved: Path) -> None:
        for rank in (2, 3):
            shutil.copy(state_file(saved, 0), state_file(saved, rank))
        assert "mp_metadata_pp_rank_0.json does not describe shards of 4 ranks" in rejection(saved, Split(4))

    def test_a_missing_tensor_file(self, saved: Path) -> None:
        state_file(saved, 1).with_name(f"{state_file(saved, 1).name}.tensors").joinpath("tensor_7.pt").unlink()
        assert "tensors/tensor_7.pt, which contains base_model." in rejection(saved)

    def test_missing_metadata_of_a_pipeline_rank(self, saved: Path) -> None:
        (saved / "adapter_shards/mp_metadata_pp_rank_0.json").unlink()
        assert rejection(saved) == "adapter_shards/mp_metadata_pp_rank_0.json is missing."

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"parameters": {}}', '{"parameters": 3}'])
    def test_invalid_metadata(self, saved: Path, content: str) -> None:
        (saved / "adapter_shards/mp_metadata_pp_rank_0.json").write_text(content)
        assert "mp_metadata_pp_rank_0.json does not describe shards" in rejection(saved)

    def test_an_unfinished_save(self, saved: Path) -> None:
        (saved / "adapter_shards/done").unlink()
        assert "no adapter_shards/done, so its save did not finish" in rejection(saved)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_missing_tensor(self, saved_plain: Path, rank: int) -> None:
        change(state_file(saved_plain, rank), lambda state: state.pop(NAME))
        assert f"tp_rank_{rank:02d}_pp_rank_00.pt lacks {NAME}" in rejection(saved_plain)

    def test_a_tensor_of_no_module(self, saved_plain: Path) -> None:
        change(state_file(saved_plain, 1), lambda state: state.update({"more.lora_A.weight": torch.zeros(4, 4)}))
        assert "tp_rank_01_pp_rank_00.pt contains more.lora_A.weight, which" in rejection(saved_plain)

    def test_a_tensor_of_another_shape(self, saved_plain: Path) -> None:
        change(state_file(saved_plain, 1), lambda state: state.update({NAME: state[NAME][:-1].clone()}))
        message = rejection(saved_plain)
        assert "tp_rank_01_pp_rank_00.pt contains F32 [15, 4] for" in message
        assert "F32 [16, 4]" in message

    def test_a_fused_tensor_of_another_shape_on_every_rank(self, saved_plain: Path) -> None:
        name = "base_model.model.model.layers.0.mlp.gate_up_proj.lora_B.weight"
        for rank in (0, 1):
            change(state_file(saved_plain, rank), lambda state: state.update({name: torch.zeros(50, 4)}))
        assert f"contains {name} in a wrong shape, [50, 4]: it has 50 rows" in rejection(saved_plain)

    def test_a_tensor_of_another_type(self, saved_plain: Path) -> None:
        change(state_file(saved_plain, 1), lambda state: state.update({NAME: state[NAME].bfloat16()}))
        assert "contains BF16 [16, 4] for" in rejection(saved_plain)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_code_in_a_pickle_does_not_run(self, saved: Path, rank: int, tmp_path: Path) -> None:
        torch.save({NAME: Canary(tmp_path / "ran")}, state_file(saved, rank))
        assert f"tp_rank_{rank:02d}_pp_rank_00.pt is not a readable torch file" in rejection(saved)
        assert not (tmp_path / "ran").exists()
        torch.load(state_file(saved, rank), weights_only=False)
        assert (tmp_path / "ran").exists(), "the canary must work when it is loaded"


class Canary:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_spread_of_replicas_is_reported_and_the_first_rank_is_used(saved_plain: Path, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    before, spread = consolidated(saved_plain, tmp_path / "before", Split(2))
    assert spread == Spread(spread.replicated, 0, 0.0, "")
    change(state_file(saved_plain, 1), lambda state: state[name][3, 2].add_(0.25))
    after, spread = consolidated(saved_plain, tmp_path / "after", Split(2))
    assert_equal_tensors(after, before)
    assert (spread.differing, spread.name) == (1, name)
    assert spread.largest == pytest.approx(0.25, abs=1e-6)


def test_replicated_heads_that_differ_are_reported(adapters: ShardedAdapters, tmp_path: Path) -> None:
    case = Case("llama", Split(8, use_xser=False), (GATE_UP, QKV))
    shards = Path(shutil.copytree(adapters.shards(case), tmp_path / "saved"))
    name = "base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight_v"
    change(state_file(shards, 5), lambda state: state[name].mul_(2))
    tensors, spread = consolidated(shards, tmp_path / "ours", case.split)
    assert_equal_tensors(tensors, expected_tensors(adapters.adapter(case), case.fused))
    assert (spread.differing, spread.name) == (1, name.replace("qkv_proj", "v_proj").replace("weight_v", "weight"))


def test_a_replica_that_is_not_finite_is_rejected(saved_plain: Path, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    change(state_file(saved_plain, 1), lambda state: state[name][3, 2].fill_(torch.nan))
    with pytest.raises(AirsmithError, match=r"replicas of .*o_proj\.lora_B.* in .*tp_rank_01_pp_rank_00\.pt differ"):
        consolidated(saved_plain, tmp_path / "ours", Split(2))
