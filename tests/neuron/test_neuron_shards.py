"""Shards that are damaged or not those of the training are refused by their names; copies that differ are told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cutting import GATE_UP, QKV, Case, Tensors, Workshop, check_equal, consolidated, expected_of
from peers import Split

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.consolidating.checkpoint import check
from airsmith_stages.consolidating.optimum_neuron import ADAPTER_SHARDS, read_optimum_neuron
from airsmith_stages.consolidating.replicas import Spread
from airsmith_stages.weights.source import FolderSource

WHOLE_IN_TWO, PLAINLY_IN_TWO = Case("llama", Split(2)), Case("llama", Split(2, use_xser=False))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("peers"))


@pytest.fixture
def saved(workshop: Workshop, tmp_path: Path) -> Path:
    """A copy of an adapter's shards, of two ranks in xser, that a test may damage."""
    return Path(shutil.copytree(workshop.shards(WHOLE_IN_TWO), tmp_path / "saved"))


@pytest.fixture
def saved_plainly(workshop: Workshop, tmp_path: Path) -> Path:
    """The same in plain files."""
    return Path(shutil.copytree(workshop.shards(PLAINLY_IN_TWO), tmp_path / "plain"))


def state_file(folder: Path, rank: int) -> Path:
    return folder / f"adapter_shards/model/dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt"


def refusal(folder: Path, split: Split = WHOLE_IN_TWO.split) -> str:
    with pytest.raises(AirsmithError) as refused:
        check(
            read_optimum_neuron(
                FolderSource(folder), folder=ADAPTER_SHARDS, tensor=split.tensor, pipeline=split.pipeline
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


class TestRefused:
    """By the name of the file; nothing has been written then."""

    def test_a_rank_is_missing(self, saved: Path) -> None:
        state_file(saved, 1).unlink()
        assert refusal(saved).startswith(f"adapter_shards/model/{state_file(saved, 1).name} is missing")

    def test_there_are_more_ranks_than_the_training_had(self, saved: Path) -> None:
        assert "tp_rank_01_pp_rank_00.pt is of no process of 1 × 1" in refusal(saved, Split(1))

    def test_it_was_made_for_more_ranks(self, saved: Path) -> None:
        for rank in (2, 3):
            shutil.copy(state_file(saved, 0), state_file(saved, rank))
        assert "mp_metadata_pp_rank_0.json does not describe shards of 4 ranks" in refusal(saved, Split(4))

    def test_a_tensor_s_file_is_missing(self, saved: Path) -> None:
        state_file(saved, 1).with_name(f"{state_file(saved, 1).name}.tensors").joinpath("tensor_7.pt").unlink()
        assert "tensors/tensor_7.pt is missing, which holds base_model." in refusal(saved)

    def test_a_pipeline_rank_s_metadata_is_missing(self, saved: Path) -> None:
        (saved / "adapter_shards/mp_metadata_pp_rank_0.json").unlink()
        assert refusal(saved) == "adapter_shards/mp_metadata_pp_rank_0.json is missing."

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"parameters": {}}', '{"parameters": 3}'])
    def test_the_metadata_is_none(self, saved: Path, content: str) -> None:
        (saved / "adapter_shards/mp_metadata_pp_rank_0.json").write_text(content)
        assert "mp_metadata_pp_rank_0.json does not describe shards" in refusal(saved)

    def test_its_saving_was_not_finished(self, saved: Path) -> None:
        (saved / "adapter_shards/done").unlink()
        assert "no adapter_shards/done: its saving was not finished" in refusal(saved)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_rank_lacks_a_tensor(self, saved_plainly: Path, rank: int) -> None:
        change(state_file(saved_plainly, rank), lambda state: state.pop(NAME))
        assert f"tp_rank_{rank:02d}_pp_rank_00.pt lacks {NAME}" in refusal(saved_plainly)

    def test_a_rank_has_a_tensor_that_no_module_has(self, saved_plainly: Path) -> None:
        change(state_file(saved_plainly, 1), lambda state: state.update({"more.lora_A.weight": torch.zeros(4, 4)}))
        assert "tp_rank_01_pp_rank_00.pt holds more.lora_A.weight, which" in refusal(saved_plainly)

    def test_a_rank_s_tensor_is_of_another_shape(self, saved_plainly: Path) -> None:
        change(state_file(saved_plainly, 1), lambda state: state.update({NAME: state[NAME][:-1].clone()}))
        said = refusal(saved_plainly)
        assert "tp_rank_01_pp_rank_00.pt holds F32 [15, 4] for" in said
        assert "F32 [16, 4]" in said

    def test_a_fused_tensor_is_of_another_shape_on_every_rank(self, saved_plainly: Path) -> None:
        name = "base_model.model.model.layers.0.mlp.gate_up_proj.lora_B.weight"
        for rank in (0, 1):
            change(state_file(saved_plainly, rank), lambda state: state.update({name: torch.zeros(50, 4)}))
        assert f"holds {name} in a wrong shape, [50, 4]: it has 50 rows" in refusal(saved_plainly)

    def test_a_rank_s_tensor_is_of_another_type(self, saved_plainly: Path) -> None:
        change(state_file(saved_plainly, 1), lambda state: state.update({NAME: state[NAME].bfloat16()}))
        assert "holds BF16 [16, 4] for" in refusal(saved_plainly)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_code_in_a_pickle_is_not_run(self, saved: Path, rank: int, tmp_path: Path) -> None:
        torch.save({NAME: Canary(tmp_path / "ran")}, state_file(saved, rank))
        assert f"tp_rank_{rank:02d}_pp_rank_00.pt cannot be read" in refusal(saved)
        assert not (tmp_path / "ran").exists()
        torch.load(state_file(saved, rank), weights_only=False)
        assert (tmp_path / "ran").exists(), "the canary itself must be alive"


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_how_far_replicas_lie_apart_is_told_and_the_first_rank_counts(saved_plainly: Path, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    before, spread = consolidated(saved_plainly, tmp_path / "before", Split(2))
    assert spread == Spread(spread.replicated, 0, 0.0, "")
    change(state_file(saved_plainly, 1), lambda state: state[name][3, 2].add_(0.25))
    after, spread = consolidated(saved_plainly, tmp_path / "after", Split(2))
    check_equal(after, before)
    assert (spread.differing, spread.name) == (1, name)
    assert spread.largest == pytest.approx(0.25, abs=1e-6)


def test_repeated_heads_that_differ_are_told(workshop: Workshop, tmp_path: Path) -> None:
    case = Case("llama", Split(8, use_xser=False), (GATE_UP, QKV))
    shards = Path(shutil.copytree(workshop.shards(case), tmp_path / "saved"))
    name = "base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight_v"
    change(state_file(shards, 5), lambda state: state[name].mul_(2))
    tensors, spread = consolidated(shards, tmp_path / "ours", case.split)
    check_equal(tensors, expected_of(workshop.adapter(case), case.fused))
    assert (spread.differing, spread.name) == (1, name.replace("qkv_proj", "v_proj").replace("weight_v", "weight"))


def test_a_copy_that_is_not_finite_is_refused(saved_plainly: Path, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    change(state_file(saved_plainly, 1), lambda state: state[name][3, 2].fill_(torch.nan))
    with pytest.raises(AirsmithError, match=r"tp_rank_01_pp_rank_00\.pt should hold the same of .*o_proj\.lora_B"):
        consolidated(saved_plainly, tmp_path / "ours", Split(2))
