"""Small models and adapters, and their shards, made by optimum-neuron's own classes in one process."""

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
    """How many ranks share a model, and how the library is told to lay it out."""

    tensor: int = 1
    pipeline: int = 1
    fuse_qkv: bool = False
    use_xser: bool = True
    kv_size_multiplier: int | None = None

    def ranks(self) -> Iterator[parallel_state.Place]:
        """Every rank, the first pipeline rank's first."""
        for pipeline_rank in range(self.pipeline):
            for tensor_rank in range(self.tensor):
                yield parallel_state.Place(self.tensor, tensor_rank, self.pipeline, pipeline_rank)


def begin() -> None:
    """What torchrun does for a single process."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if not gc.get_freeze_count():
        gc.freeze()  # the library collects garbage with every load: what importing it has left need not be looked at
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel()


def new_config(family: str = "llama", **sizes: int | bool) -> PretrainedConfig:
    """Of a model with 8 query heads, 2 key-value heads and 2 layers, unless said otherwise."""
    defaults: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }  # fmt: skip
    return FAMILIES[family](**{**defaults, **sizes})


def new_model(folder: Path, config: PretrainedConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A model of random weights, as transformers saves it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def new_adapter(folder: Path, model: Path, config: LoraConfig, seed: int = 1) -> Path:
    """An adapter of random weights, as PEFT saves it: no two of its tensors are alike."""
    torch.manual_seed(seed)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return folder


def loaded_model(model: Path, split: Split) -> PreTrainedModel:
    """The library's model, or this rank's part of it."""
    config = TrainingNeuronConfig(
        tensor_parallel_size=split.tensor,
        pipeline_parallel_size=split.pipeline,
        fuse_qkv=split.fuse_qkv,
        kv_size_multiplier=split.kv_size_multiplier,
        use_xser=split.use_xser,
    )
    return NeuronModelForCausalLM.from_pretrained(model, config)


def shard_model(model: Path, folder: Path, split: Split) -> Path:
    """Every rank loads its part of the model and saves it.

    :returns: the folder with `shards` in it.
    """
    begin()
    for place in split.ranks():
        with parallel_state.playing(*vars(place).values()):
            loaded_model(model, split).save_pretrained(folder, is_main_process=True)
    return folder


def shard_adapter(model: Path, adapter: Path, folder: Path, split: Split) -> Path:
    """Every rank loads its part of model and adapter and saves the adapter's.

    :returns: the folder with `adapter_config.json` and `adapter_shards` in it.
    """
    begin()
    for place in split.ranks():
        with parallel_state.playing(*vars(place).values()):
            adapted = NeuronPeftModelForCausalLM.from_pretrained(loaded_model(model, split), adapter, is_trainable=True)
            _fill_fused_heads(adapted, adapter)
            adapted.save_pretrained(folder)
    return folder / "adapter_default"


def _fill_fused_heads(adapted: PeftModel, adapter: Path) -> None:
    """The library cuts these matrices and then loads them into no parameter: it has them under another name."""
    own = adapt_state_dict(adapted, load_file(adapter / "adapter_model.safetensors"), {}, adapter_name="default")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name.endswith("lora_B.default.weight_qkv"):
                parameter.copy_(own[name.replace(".default.weight_qkv", ".weight")])


def consolidate_by_the_library(folder: Path, output: Path) -> Path:
    """What `optimum-cli neuron consolidate` does.

    :param folder: what one of the functions above has returned, or the folder around it.
    """
    consolidate_model_parallel_checkpoints_to_unified_checkpoint(folder, output)
    return output


def merged_by_peft(model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The merged model's tensors as PEFT computes them."""
    return (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).merge_and_unload().state_dict()
    )
