"""Shards that optimum-neuron's own classes have made become the adapter or the model that went into them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from cutting import GATE_UP, QKV, Case, Workshop, check_equal, consolidated, expected_of
from optimum.neuron.models.training import specialize_transformation_specs_for_model
from optimum.neuron.models.training.transformations_utils import GQAQKVColumnParallelLinearSpec
from optimum.neuron.peft import get_peft_model
from peers import ALL_PROJECTIONS, Split
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from airsmith_stages.consolidating.optimum_neuron import MODEL_SHARDS
from airsmith_stages.consolidating.replicas import Spread
from airsmith_stages.merging.model import merge_model
from airsmith_stages.weights.source import FolderSource

CASES = {
    "whole": Case("llama", Split()),
    "two ranks, plain": Case("llama", Split(2, use_xser=False)),
    "heads twice": Case("llama", Split(4), (GATE_UP, QKV)),
    "heads four times, plain": Case("llama", Split(8, use_xser=False), (GATE_UP, QKV)),
    "heads oftener than needed": Case("llama", Split(4, kv_size_multiplier=4), (GATE_UP, QKV)),
    "heads twice, one matrix": Case("llama", Split(4, fuse_qkv=True), (GATE_UP, QKV)),
    "as many key heads, one matrix": Case(
        "llama", Split(2, fuse_qkv=True), (GATE_UP, QKV), sizes=(("num_key_value_heads", 8),)
    ),
    "qwen3": Case("qwen3", Split(4), (GATE_UP, QKV)),
    "granite": Case("granite", Split(2)),
    "pipeline": Case("llama", Split(2, pipeline=2)),
    "pipeline, heads twice, plain": Case("llama", Split(4, pipeline=2, use_xser=False), (GATE_UP, QKV)),
    "head and embedding": Case("llama", Split(2), targets=("lm_head", "embed_tokens", "o_proj")),
}
DYING = {
    "queries and values": Case("llama", Split(2), targets=("q_proj", "v_proj")),
    "one layer": Case("llama", Split(2), layers=(1,)),
    "down only": Case("llama", Split(2, use_xser=False), targets=("down_proj",)),
}
"""What the library trains and saves, and its own consolidation cannot read."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("peers"))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_adapter_that_was_cut_comes_back_bit_for_bit(workshop: Workshop, tmp_path: Path, case: Case) -> None:
    tensors, spread = consolidated(workshop.shards(case), tmp_path / "ours", case.split)
    check_equal(tensors, expected_of(workshop.adapter(case), case.fused))
    assert spread.differing == 0
    assert bool(spread.replicated) is (case.split.tensor > 1)
    if case.targets == ALL_PROJECTIONS:
        peers.consolidate_by_the_library(workshop.shards(case).parent, tmp_path / "library")
        check_equal(tensors, load_file(tmp_path / "library/adapter_model.safetensors"))


@pytest.mark.parametrize("case", DYING.values(), ids=DYING)
def test_what_the_library_itself_cannot_consolidate_is_read(workshop: Workshop, tmp_path: Path, case: Case) -> None:
    shards = workshop.shards(case)
    tensors, _ = consolidated(shards, tmp_path / "ours", case.split)
    check_equal(tensors, expected_of(workshop.adapter(case), (GATE_UP,) if "gate_proj" in case.targets else ()))
    with pytest.raises((KeyError, ValueError)):
        peers.consolidate_by_the_library(shards.parent, tmp_path / "library")


def test_the_output_s_columns_go_back_to_their_heads_where_queries_have_no_adapter(
    workshop: Workshop, tmp_path: Path
) -> None:
    """The library cuts `o_proj` in the order of the ranks' heads whether the heads have LoRA or not."""
    split, base = Split(4), workshop.model("llama")
    whole = torch.randn(4, 32, generator=torch.Generator().manual_seed(7))
    peers.begin()
    for place in split.ranks():
        with peers.parallel_state.playing(*vars(place).values()):
            config = LoraConfig(r=4, target_modules=["o_proj"], task_type="CAUSAL_LM")
            adapted = get_peft_model(peers.loaded_model(base, split), config)
            own = GQAQKVColumnParallelLinearSpec.create_query_or_output_projection_local_weight_from_regular_weight(
                whole, 8, 2, 2, "output"
            )
            with torch.no_grad():
                for name, parameter in adapted.named_parameters():
                    if ".o_proj.lora_A." in name:
                        parameter.copy_(own)
            specialize_transformation_specs_for_model(adapted)
            adapted.save_pretrained(tmp_path / "shards")
    tensors, _ = consolidated(tmp_path / "shards/adapter_default", tmp_path / "ours", split)
    found = [tensor for name, tensor in tensors.items() if name.endswith("o_proj.lora_A.weight")]
    assert len(found) == 2
    assert all(torch.equal(tensor, whole) for tensor in found)


@pytest.mark.parametrize("name", ["heads twice", "heads four times, plain", "qwen3", "granite", "pipeline"])
def test_merged_it_is_peft_s_own_merge(workshop: Workshop, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    base = workshop.model(case.family, **dict(case.sizes))
    consolidated(workshop.shards(case), tmp_path / "adapter", case.split)
    (tmp_path / "adapter/model.safetensors").rename(tmp_path / "adapter/adapter_model.safetensors")
    config = (workshop.shards(case) / "adapter_config.json").read_text()
    (tmp_path / "adapter/adapter_config.json").write_text(config)
    (tmp_path / "expected").mkdir()
    save_file(expected_of(workshop.adapter(case), case.fused), tmp_path / "expected/adapter_model.safetensors")
    (tmp_path / "expected/adapter_config.json").write_text((workshop.adapter(case) / "adapter_config.json").read_text())

    merged: dict[str, bytes] = {}

    def write(file: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        merged[file] = b"".join(bytes(piece) for piece in pieces)

    merge_model(FolderSource(base), FolderSource(tmp_path / "adapter"), write)
    (tmp_path / "merged.safetensors").write_bytes(merged["model.safetensors"])
    found, expected = load_file(tmp_path / "merged.safetensors"), peers.merged_by_peft(base, tmp_path / "expected")
    assert found.keys() == expected.keys()
    for tensor_name, tensor in expected.items():
        torch.testing.assert_close(found[tensor_name], tensor, rtol=1e-6, atol=1e-5)
    assert any(not torch.equal(found[key], tensor) for key, tensor in load_file(base / "model.safetensors").items())


@pytest.mark.parametrize(
    ("family", "split", "sizes"),
    [
        ("llama", Split(4), {}),
        ("llama", Split(4, kv_size_multiplier=4, use_xser=False), {}),
        ("llama", Split(8, fuse_qkv=True, use_xser=False), {}),
        ("qwen3", Split(2, use_xser=False), {}),
        ("granite", Split(2), {}),
        ("granite", Split(2, use_xser=False), {"tie_word_embeddings": True}),
        ("llama", Split(2, pipeline=2), {}),
    ],
    ids=["heads twice", "heads oftener", "one matrix", "qwen3", "granite", "tied", "pipeline"],
)
def test_all_parameters_come_back_bit_for_bit(
    workshop: Workshop, tmp_path: Path, family: str, split: Split, sizes: dict[str, Any]
) -> None:
    base = workshop.model(family, **sizes)
    shards = peers.shard_model(base, tmp_path / "saved", split)
    tensors, spread = consolidated(shards, tmp_path / "ours", split, MODEL_SHARDS)
    check_equal(tensors, load_file(base / "model.safetensors"))
    assert spread == Spread(spread.replicated, 0, 0.0, "")
    peers.consolidate_by_the_library(shards, tmp_path / "library")
    check_equal(tensors, load_file(tmp_path / "library/model.safetensors"))
