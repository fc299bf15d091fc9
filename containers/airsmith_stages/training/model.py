"""Loads the model to train and selects its trainable parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel, set_seed
from transformers.utils.logging import disable_progress_bar

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith_stages.devices import Device
from airsmith_stages.training.lora import add_lora
from airsmith_stages.training.loss import chunk_loss


@dataclass(frozen=True)
class TrainableModel:
    """A model that is ready for training.

    :param module: a `PeftModel`, or the base itself if all parameters are trained.
    :param base: the model without LoRA.
    :param base_dtypes: data types of the base's parameters when it was loaded.
    :param untrained: fingerprints of the trainable parameters before the first step.
    """

    module: nn.Module
    base: PreTrainedModel
    base_dtypes: Mapping[str, torch.dtype]
    untrained: Mapping[str, bytes]


def load_model(folder: Path, recipe: Recipe, device: Device) -> TrainableModel:
    """Load a base model and prepare it for training.

    Trainable parameters are kept in float32, so that small optimizer steps are not lost in rounding. Frozen parameters
    are kept in float32 if that is the recipe's precision, else in the data type in which they were loaded.

    :raises AirsmithError: `bad_recipe` if the method names modules that the model does not have.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_seed(recipe.training.seed)
    base = _load_base(folder, recipe, device)
    if recipe.method.name == "qlora":
        _check_quantized(base)
    dtypes = {name: parameter.dtype for name, parameter in base.named_parameters()}
    if recipe.method.name == "full" or (recipe.method.name == "lora" and recipe.training.precision == "float32"):
        base.float()  # type: ignore[no-untyped-call]
    module = base.requires_grad_(True) if recipe.method.name == "full" else add_lora(base, recipe)
    for _, parameter in trainable_parameters(module):
        parameter.data = parameter.data.float()
    if not device.fuses_loss():  # Last: LoRA may have replaced the output head.
        chunk_loss(base)
    return TrainableModel(module, base, dtypes, fingerprints(module))


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainable parameters, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def load_trainable(model: nn.Module, path: Path) -> None:
    """Load the trainable parameters from a safetensors file.

    :raises AirsmithError: `verification_failed` if the file's parameters are not the model's trainable parameters.
    """
    saved = load_file(path)
    current = dict(trainable_parameters(model))
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in current.items()}:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"The parameters in {path.name} are not those that this recipe trains.",
            "Delete the training's checkpoints from the store and clear train to start from the beginning.",
        )
    with torch.no_grad():
        for name, parameter in current.items():
            parameter.copy_(saved[name])


def fingerprints(model: nn.Module) -> dict[str, bytes]:
    """A digest of this rank's part of each trainable parameter, to detect changes."""
    return {
        name: hashlib.sha256(local_part(parameter).contiguous().view(torch.uint8).cpu().numpy().data).digest()
        for name, parameter in trainable_parameters(model)
    }


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that may be sharded."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def _check_quantized(base: PreTrainedModel) -> None:
    """Check that layers are quantized: the library reports no error if it quantizes none."""
    if not any(type(module).__name__ == "Linear4bit" for module in base.modules()):
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            "method.name is 'qlora', but no layer of the model was quantized to 4 bits.",
            "Use an image with bitsandbytes, or set method.name to 'lora'.",
        )


def _load_base(folder: Path, recipe: Recipe, device: Device) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=recipe.model.dtype,
        attn_implementation=device.attn_implementation,
        trust_remote_code=recipe.model.trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
        **device.loading_arguments(recipe),
    )
