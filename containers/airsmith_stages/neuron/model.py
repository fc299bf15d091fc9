"""The model to train: optimum-neuron's own form of a base, of which this process holds a part, and LoRA on it."""

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

LONGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class ModelShard:
    """What this process holds of a model that is ready to be trained.

    :param module: a `NeuronPeftModel`, or the base itself where every parameter is trained.
    :param untrained: the trained parameters' fingerprints before the first step.
    """

    module: nn.Module
    config: PretrainedConfig
    untrained: Mapping[str, bytes]

    @property
    def is_adapter(self) -> bool:
        """Whether LoRA alone is trained."""
        return isinstance(self.module, PeftModel)


def load_model(folder: Path, recipe: Recipe, arguments: NeuronTrainingArguments) -> ModelShard:
    """Load this process's part of a base model and add what is trained.

    Every process draws the same random numbers, so that those that hold a matrix's parts begin with parts of one.
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
    """Draw the random numbers of dropout from here on; after a restart they are not those of the first steps again."""
    number = mixed_seed(seed, step) % LONGEST_SEED
    set_seed(number)
    xm.set_rng_state(number)


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that this process trains, by name. A pipeline's module has those of the others as well."""
    parameters = getattr(model, "local_named_parameters", model.named_parameters)()
    return ((name, parameter) for name, parameter in parameters if parameter.requires_grad and not parameter.is_meta)


def fingerprints(model: nn.Module, precision: str) -> dict[str, bytes]:
    """A digest of each trained parameter, to tell later whether it has moved.

    :param precision: the data type that the trainer will have moved the model to.
    """
    dtype = getattr(torch, precision)
    return {name: _digest(parameter.detach().cpu().to(dtype)) for name, parameter in trained_parameters(model)}


def _add_lora(base: nn.Module, recipe: Recipe) -> PeftModel:
    """The names of target modules are the recipe's: which of them the library puts into one layer, it knows itself."""
    model: PeftModel = get_peft_model(base, lora_config(recipe.method))
    # Peft has put the folder on this disk there.
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path, config.revision = recipe.model.id, recipe.model.revision
    return model


def _digest(tensor: torch.Tensor) -> bytes:
    # As float32: numpy has no bfloat16.
    return hashlib.sha256(tensor.float().contiguous().numpy().data).digest()
