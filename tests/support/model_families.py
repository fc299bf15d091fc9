"""Tiny models of several families, peft's adapters of them, and merging of both."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from airsmith_stages.merging.model import MergeReport, merge_model
from airsmith_stages.weights.readers import FolderReader

SHAPE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
    "gpt2": {},
    "gpt_neox": {},
}  # fmt: skip


def save_model(folder: Path, family: str, dtype: torch.dtype = torch.bfloat16, **config: Any) -> None:
    """Save a model with random weights in several files."""
    settings: PretrainedConfig = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family], **config})
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(settings).to(dtype)
    for parameter in model.parameters():
        parameter.data = (parameter.data.float() + 0.02 * torch.randn(parameter.shape)).to(dtype)
    model.save_pretrained(folder, max_shard_size="20KB")


def save_peft_adapter(base: Path, folder: Path, **lora: Any) -> None:
    """Save an adapter with random weights in float32, as training holds it."""
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "init_lora_weights": False, **lora})
    torch.manual_seed(5)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() + 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)


def save_merged_by_peft(base: Path, adapter: Path, folder: Path, dtype: str = "auto") -> None:
    """Merge base and adapter with peft and save the result with transformers."""
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter)
    loaded.merge_and_unload().save_pretrained(folder)
    shutil.copy(base / "config.json", folder / "base-config.json")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Load all tensors of a folder's files."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def merge_folders(base: Path, adapter: Path, output: Path, *, dtype: str = "auto") -> MergeReport:
    """Merge folders into a new folder of many small files."""
    output.mkdir()

    def write(name: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        with (output / name).open("wb") as file:
            assert sum(file.write(piece) for piece in pieces) == size_bytes

    return merge_model(FolderReader(base), FolderReader(adapter), write, dtype=dtype, max_shard_bytes=30_000)
