"""Merging without torch gives peft's result, but keeps tied weights apart that peft would both change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from airsmith_stages.merging.model import MergeReport
from tests.support.model_families import merge_folders, save_merged_by_peft, save_model, save_peft_adapter, tensors_of

ALL = {"target_modules": "all-linear"}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", ALL, {}),
    "rslora": ("llama", {**ALL, "use_rslora": True, "r": 8}, {}),
    "dora": ("llama", {**ALL, "use_dora": True}, {}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"layers.1.self_attn.v_proj": 3},
        },
        {},
    ),
    "LoRA on biases": ("llama", {"target_modules": ["q_proj"], "lora_bias": True}, {"attention_bias": True}),
    "biases trained": ("llama", {"target_modules": ["q_proj"], "bias": "all"}, {"attention_bias": True}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}, {}),
    "embedding, dora": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}, {}),
    "head saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, {}),
    "both saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, {}),
    "tokens": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}, {}),
    "tokens of both": (
        "llama",
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [1]}},
        {},
    ),
    "tied": ("llama", ALL, {"tie_word_embeddings": True}),
    "tied, tokens": (
        "llama",
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
        {"tie_word_embeddings": True},
    ),
    "qwen3": ("qwen3", ALL, {}),
    "gemma3": ("gemma3_text", ALL, {}),
    "mixtral": ("mixtral", ALL, {}),
    "mixtral's experts": ("mixtral", {"target_modules": ["q_proj"], "target_parameters": EXPERTS[::-1]}, {}),
    "qwen3_moe": ("qwen3_moe", ALL, {}),
    "qwen3_moe's experts": ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS[1:]}, {}),
    "gpt2": ("gpt2", ALL, {}),
    "gpt2, dora": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}, {}),
    "gpt_neox": ("gpt_neox", ALL, {}),
    "gpt_neox's head": ("gpt_neox", {"target_modules": ["embed_out", "query_key_value"]}, {}),
}


def check_equal(expected: Mapping[str, torch.Tensor], merged: Mapping[str, torch.Tensor]) -> None:
    """Assert equality up to the summation order: at most the last bit of one element in a thousand differs.

    A second rounding, or a product in lower precision, changes about one in a hundred.
    """
    assert expected.keys() == merged.keys()
    for name, tensor in expected.items():
        bits = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
        ulps = (tensor.contiguous().view(bits).long() - merged[name].contiguous().view(bits).long()).abs()
        assert differing(tensor, merged[name]) <= tensor.numel() / 1000, name
        assert int(ulps.max()) <= 1, name


def differing(expected: torch.Tensor, found: torch.Tensor) -> int:
    """Count the elements whose bits differ."""
    assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
    bits = {2: torch.int16, 4: torch.int32}[found.element_size()]
    return int((expected.contiguous().view(bits) != found.contiguous().view(bits)).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_the_merged_weights_equal_those_that_peft_writes(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    family, lora, config = CASES[case]
    save_model(tmp_path / "base", family, dtype, **config)
    save_peft_adapter(tmp_path / "base", tmp_path / "adapter", **lora)
    save_merged_by_peft(tmp_path / "base", tmp_path / "adapter", tmp_path / "expected")
    report = merge_folders(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    expected, merged = tensors_of(tmp_path / "expected"), tensors_of(tmp_path / "merged")
    check_equal(expected, merged)
    base = tensors_of(tmp_path / "base")
    changed = {name: count for name in base if (count := differing(base[name], merged[name]))}
    assert report == MergeReport(len(changed), sum(changed.values()))


@pytest.mark.parametrize("case", ["llama", "dora", "embedding", "mixtral", "gpt2"])
def test_in_float32_only_the_summation_order_differs(tmp_path: Path, case: str) -> None:
    """Products are not rounded to a lower precision, so that the last bit depends on the library that sums them."""
    family, lora, config = CASES[case]
    save_model(tmp_path / "base", family, torch.float32, **config)
    save_peft_adapter(tmp_path / "base", tmp_path / "adapter", **lora)
    save_merged_by_peft(tmp_path / "base", tmp_path / "adapter", tmp_path / "expected")
    merge_folders(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    expected, merged = tensors_of(tmp_path / "expected"), tensors_of(tmp_path / "merged")
    assert expected.keys() == merged.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["embedding", "head", "embedding saved", "head saved"],
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_of_one_of_two_tied_modules_does_not_change_the_other(
    tmp_path: Path, family: str, lora: dict[str, Any]
) -> None:
    """The merged model computes what base and adapter computed in training."""
    if family == "gpt2":
        renamed = {"embed_tokens": "wte", "q_proj": "c_attn", "lm_head": "lm_head"}
        lora = {key: [renamed[name] for name in names] for key, names in lora.items()}
    save_model(tmp_path / "base", family, torch.float32, tie_word_embeddings=True)
    save_peft_adapter(tmp_path / "base", tmp_path / "adapter", **lora)
    merge_folders(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(merged, logits(tuned), rtol=1e-4, atol=1e-4)
    base = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    assert not torch.allclose(base, logits(tuned), atol=0.01)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=torch.arange(1, 33).reshape(2, 16)).logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_another_dtype_equals_merging_a_base_loaded_in_it(tmp_path: Path, dtype: str) -> None:
    save_model(tmp_path / "base", "llama", torch.float16)
    save_peft_adapter(tmp_path / "base", tmp_path / "adapter", **ALL)
    save_merged_by_peft(tmp_path / "base", tmp_path / "adapter", tmp_path / "expected", dtype)
    merge_folders(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", dtype=dtype)
    check_equal(tensors_of(tmp_path / "expected"), tensors_of(tmp_path / "merged"))
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == dtype


def test_a_resized_vocabulary_is_merged(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    save_model(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    model.resize_token_embeddings(104)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    merge_folders(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    check_equal(tuned.merge_and_unload().state_dict(), tensors_of(tmp_path / "merged"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config.vocab_size == 104


def test_neither_torch_nor_peft_is_imported() -> None:
    heavy = {"torch", "peft", "transformers", "safetensors"}
    code = f"import sys, airsmith_stages.merge; print(sorted({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
