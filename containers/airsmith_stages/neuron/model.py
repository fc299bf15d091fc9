"""Loads this rank's shard of the model to train, as optimum-neuron's model classes, and adds LoRA."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch_xla.core.xla_model as xm
from optimum.neuron import NeuronTrainingArguments
from optimum.neuron.models.training import NeuronModelForCausalLM
from optimum.neuron.peft import get_peft_model
from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig, set_seed
from transformers.utils.logging import disable_progress_bar

from airsmith.contracts.graphs import uses_flash_attention
from airsmith.recipe import Recipe
from airsmith_stages.training.lora import lora_config
from airsmith_stages.training.sampler import mixed_seed

MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class ModelShard:
    """This rank's shard of a model that is ready for training.

    :param module: a `NeuronPeftModel`, or the base itself if all parameters are trained.
    :param untrained: fingerprints of the trainable parameters before the first step.
    """

    module: nn.Module
    config: PretrainedConfig
    untrained: Mapping[str, bytes]

    @property
    def is_adapter(self) -> bool:
        """Whether only LoRA is trained."""
        return isinstance(self.module, PeftModel)


def load_model(folder: Path, recipe: Recipe, arguments: NeuronTrainingArguments) -> ModelShard:
    """Load this rank's shard of a base model and prepare it for training.

    All ranks use the same seed, so that the shards of a matrix are initialized as shards of one matrix.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_seed(recipe.training.seed)
    base = NeuronModelForCausalLM.from_pretrained(
        folder,
        arguments.trn_config,
        dtype=recipe.training.precision,
        attn_implementation="flash_attention_2" if uses_flash_attention(recipe.dataset.max_length) else "eager",
        use_safetensors=True,
        local_files_only=True,
    )
    module = base.requires_grad_(True) if recipe.method.name == "full" else _add_lora(base, recipe)
    return ModelShard(module, base.config, fingerprints(module, recipe.training.precision))


def seed_steps(seed: int, step: int) -> None:
    """Seed dropout for the steps from here on, so that a restart does not repeat the first steps' random numbers."""
    number = mixed_seed(seed, step) % MAX_SEED
    set_seed(number)
    xm.set_rng_state(number)


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainable parameters of this rank, by name. A pipeline's module also contains those of other ranks."""
    parameters = getattr(model, "local_named_parameters", model.named_parameters)()
    return ((name, parameter) for name, parameter in parameters if parameter.requires_grad and not parameter.is_meta)


def fingerprints(model: nn.Module, precision: str) -> dict[str, bytes]:
    """A digest of each trainable parameter, to detect changes.

    :param precision: the data type to which the trainer converts the model.
    """
    dtype = getattr(torch, precision)
    return {name: _digest(parameter.detach().cpu().to(dtype)) for name, parameter in trained_parameters(model)}


def _add_lora(base: nn.Module, recipe: Recipe) -> PeftModel:
    """Add LoRA with the recipe's names of target modules; the library maps them to its fused layers."""
    model: PeftModel = get_peft_model(base, lora_config(recipe.method))
    # peft sets these to the local folder.
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path, config.revision = recipe.model.id, recipe.model.revision
    return model


def _digest(tensor: torch.Tensor) -> bytes:
    # numpy does not support bfloat16.
    return hashlib.sha256(tensor.float().contiguous().numpy().data).digest()
