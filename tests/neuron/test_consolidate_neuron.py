"""Consolidation restores the adapter or model from shards that optimum-neuron's classes have made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from neuronx_distributed.parallel_layers import parallel_state
from optimum.neuron.models.training import specialize_transformation_specs_for_model
from optimum.neuron.models.training.transformations_utils import GQAQKVColumnParallelLinearSpec
from optimum.neuron.peft import get_peft_model
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from airsmith_stages.consolidating.optimum_neuron import MODEL_SHARDS
from airsmith_stages.consolidating.replicas import Spread
from airsmith_stages.merging.model import merge_model
from airsmith_stages.weights.readers import FolderReader
from tests.support.neuron_adapters import (
    GATE_UP,
    QKV,
    Case,
    ShardedAdapters,
    assert_equal_tensors,
    consolidated,
    expected_tensors,
)
from tests.support.neuron_models import (
    ALL_PROJECTIONS,
    Split,
    consolidate_with_library,
    init_process_group,
    load_model,
    merge_with_peft,
    shard_model,
)

CASES = {
    "one rank": Case("llama", Split()),
    "two ranks, plain": Case("llama", Split(2, use_xser=False)),
    "heads twice": Case("llama", Split(4), (GATE_UP, QKV)),
    "heads four times, plain": Case("llama", Split(8, use_xser=False), (GATE_UP, QKV)),
    "heads four times on four ranks": Case("llama", Split(4, kv_size_multiplier=4), (GATE_UP, QKV)),
    "heads twice, one matrix": Case("llama", Split(4, fuse_qkv=True), (GATE_UP, QKV)),
    "no grouped heads, one matrix": Case(
        "llama", Split(2, fuse_qkv=True), (GATE_UP, QKV), sizes=(("num_key_value_heads", 8),)
    ),
    "qwen3": Case("qwen3", Split(4), (GATE_UP, QKV)),
    "granite": Case("granite", Split(2)),
    "pipeline": Case("llama", Split(2, pipeline=2)),
    "pipeline, heads twice, plain": Case("llama", Split(4, pipeline=2, use_xser=False), (GATE_UP, QKV)),
    "head and embedding": Case("llama", Split(2), targets=("lm_head", "embed_tokens", "o_proj")),
}
UNSUPPORTED_BY_LIBRARY = {
    "queries and values": Case("llama", Split(2), targets=("q_proj", "v_proj")),
    "one layer": Case("llama", Split(2), layers=(1,)),
    "down only": Case("llama", Split(2, use_xser=False), targets=("down_proj",)),
}
"""Adapters that the library trains and saves, but cannot consolidate."""


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_sharded_adapter_is_restored_bit_for_bit(adapters: ShardedAdapters, tmp_path: Path, case: Case) -> None:
    tensors, spread = consolidated(adapters.shards(case), tmp_path / "ours", case.split)
    assert_equal_tensors(tensors, expected_tensors(adapters.adapter(case), case.fused))
    assert spread.differing == 0
    assert bool(spread.replicated) is (case.split.tensor > 1)
    if case.targets == ALL_PROJECTIONS:
        consolidate_with_library(adapters.shards(case).parent, tmp_path / "library")
        assert_equal_tensors(tensors, load_file(tmp_path / "library/adapter_model.safetensors"))


@pytest.mark.parametrize("case", UNSUPPORTED_BY_LIBRARY.values(), ids=UNSUPPORTED_BY_LIBRARY)
def test_adapters_that_the_library_cannot_consolidate_are_consolidated(
    adapters: ShardedAdapters, tmp_path: Path, case: Case
) -> None:
    shards = adapters.shards(case)
    tensors, _ = consolidated(shards, tmp_path / "ours", case.split)
    assert_equal_tensors(
        tensors, expected_tensors(adapters.adapter(case), (GATE_UP,) if "gate_proj" in case.targets else ())
    )
    with pytest.raises((KeyError, ValueError)):
        consolidate_with_library(shards.parent, tmp_path / "library")


def test_o_proj_columns_return_to_their_heads_without_lora_on_queries(
    adapters: ShardedAdapters, tmp_path: Path
) -> None:
    """The library shards `o_proj` in the order of the ranks' heads whether or not the heads have LoRA."""
    split, base = Split(4), adapters.model("llama")
    whole = torch.randn(4, 32, generator=torch.Generator().manual_seed(7))
    init_process_group()
    for place in split.ranks():
        with parallel_state.simulated_rank(*vars(place).values()):
            config = LoraConfig(r=4, target_modules=["o_proj"], task_type="CAUSAL_LM")
            adapted = get_peft_model(load_model(base, split), config)
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
def test_the_merged_model_equals_peft_s_merge(adapters: ShardedAdapters, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    base = adapters.model(case.family, **dict(case.sizes))
    consolidated(adapters.shards(case), tmp_path / "adapter", case.split)
    (tmp_path / "adapter/model.safetensors").rename(tmp_path / "adapter/adapter_model.safetensors")
    config = (adapters.shards(case) / "adapter_config.json").read_text()
    (tmp_path / "adapter/adapter_config.json").write_text(config)
    (tmp_path / "expected").mkdir()
    save_file(expected_tensors(adapters.adapter(case), case.fused), tmp_path / "expected/adapter_model.safetensors")
    (tmp_path / "expected/adapter_config.json").write_text((adapters.adapter(case) / "adapter_config.json").read_text())

    merged: dict[str, bytes] = {}

    def write(file: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        merged[file] = b"".join(bytes(piece) for piece in pieces)

    merge_model(FolderReader(base), FolderReader(tmp_path / "adapter"), write)
    (tmp_path / "merged.safetensors").write_bytes(merged["model.safetensors"])
    found, expected = load_file(tmp_path / "merged.safetensors"), merge_with_peft(base, tmp_path / "expected")
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
    ids=["heads twice", "heads four times", "one matrix", "qwen3", "granite", "tied", "pipeline"],
)
def test_a_sharded_model_is_restored_bit_for_bit(
    adapters: ShardedAdapters, tmp_path: Path, family: str, split: Split, sizes: dict[str, Any]
) -> None:
    base = adapters.model(family, **sizes)
    shards = shard_model(base, tmp_path / "saved", split)
    tensors, spread = consolidated(shards, tmp_path / "ours", split, MODEL_SHARDS)
    assert_equal_tensors(tensors, load_file(base / "model.safetensors"))
    assert spread == Spread(spread.replicated, 0, 0.0, "")
    consolidate_with_library(shards, tmp_path / "library")
    assert_equal_tensors(tensors, load_file(tmp_path / "library/model.safetensors"))
