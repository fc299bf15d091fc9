"""Small models and adapters and their shards, made by optimum-neuron's classes in one process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from neuronx_distributed.parallel_layers import parallel_state
from optimum.neuron.models.training import NeuronModelForCausalLM, TrainingNeuronConfig, adapt_state_dict
from optimum.neuron.models.training.checkpointing import consolidate_model_parallel_checkpoints_to_unified_checkpoint
from optimum.neuron.peft import NeuronPeftModelForCausalLM
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAMILIES = {"llama": LlamaConfig, "qwen3": Qwen3Config, "granite": GraniteConfig}


@dataclass(frozen=True)
class Split:
    """The parallel sizes of a model and the library's options for its shards."""

    tensor: int = 1
    pipeline: int = 1
    fuse_qkv: bool = False
    use_xser: bool = True
    kv_size_multiplier: int | None = None

    def ranks(self) -> Iterator[parallel_state.Place]:
        """All ranks, ordered by pipeline rank and then by tensor rank."""
        for pipeline_rank in range(self.pipeline):
            for tensor_rank in range(self.tensor):
                yield parallel_state.Place(self.tensor, tensor_rank, self.pipeline, pipeline_rank)


def init_process_group() -> None:
    """Initialize what torchrun initializes for a single process."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if not gc.get_freeze_count():
        gc.freeze()  # the library collects garbage on every load; skip the objects created by imports
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel()


def new_config(family: str = "llama", **sizes: int | bool) -> PretrainedConfig:
    """Make the config of a model, by default with 8 query heads, 2 key-value heads and 2 layers."""
    defaults: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }  # fmt: skip
    return FAMILIES[family](**{**defaults, **sizes})


def new_model(folder: Path, config: PretrainedConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Save a model with random weights with transformers."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def new_adapter(folder: Path, model: Path, config: LoraConfig, seed: int = 1) -> Path:
    """Save an adapter with random weights with PEFT; no two of its tensors are equal."""
    torch.manual_seed(seed)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return folder


def load_model(model: Path, split: Split) -> PreTrainedModel:
    """Load this rank's shard of a model with the library."""
    config = TrainingNeuronConfig(
        tensor_parallel_size=split.tensor,
        pipeline_parallel_size=split.pipeline,
        fuse_qkv=split.fuse_qkv,
        kv_size_multiplier=split.kv_size_multiplier,
        use_xser=split.use_xser,
    )
    return NeuronModelForCausalLM.from_pretrained(model, config)


def shard_model(model: Path, folder: Path, split: Split) -> Path:
    """Load and save the shard of each rank.

    :returns: the folder with `shards` in it.
    """
    init_process_group()
    for place in split.ranks():
        with parallel_state.simulated_rank(*vars(place).values()):
            load_model(model, split).save_pretrained(folder, is_main_process=True)
    return folder


def shard_adapter(model: Path, adapter: Path, folder: Path, split: Split) -> Path:
    """Load the shard of model and adapter on each rank, and save the adapter's.

    :returns: the folder with `adapter_config.json` and `adapter_shards` in it.
    """
    init_process_group()
    for place in split.ranks():
        with parallel_state.simulated_rank(*vars(place).values()):
            adapted = NeuronPeftModelForCausalLM.from_pretrained(load_model(model, split), adapter, is_trainable=True)
            _fill_fused_heads(adapted, adapter)
            adapted.save_pretrained(folder)
    return folder / "adapter_default"


def _fill_fused_heads(adapted: PeftModel, adapter: Path) -> None:
    """Load the fused heads: the library shards these matrices but loads them under a wrong name."""
    own = adapt_state_dict(adapted, load_file(adapter / "adapter_model.safetensors"), {}, adapter_name="default")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name.endswith("lora_B.default.weight_qkv"):
                parameter.copy_(own[name.replace(".default.weight_qkv", ".weight")])


def consolidate_with_library(folder: Path, output: Path) -> Path:
    """Do the same as `optimum-cli neuron consolidate`.

    :param folder: a folder that a function above has returned, or its parent.
    """
    consolidate_model_parallel_checkpoints_to_unified_checkpoint(folder, output)
    return output


def merge_with_peft(model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Compute the merged model's tensors with PEFT."""
    return (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).merge_and_unload().state_dict()
    )
