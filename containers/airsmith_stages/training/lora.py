"""Adds LoRA to a base model according to the recipe's method."""

from __future__ import annotations

import re

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.training import Method

ALL_LINEAR = ("all-linear",)


def add_lora(base: PreTrainedModel, recipe: Recipe) -> PeftModel:
    """Freeze a base model and add LoRA to it.

    :raises AirsmithError: `bad_recipe` if the method names modules that the model does not have.
    """
    linear_layers = _linear_layers(base)
    try:
        model = get_peft_model(base, lora_config(recipe.method))
    except ValueError as error:
        raise _mismatch(
            f"peft cannot add LoRA to {recipe.model.id}: {str(error).splitlines()[0]}", linear_layers
        ) from error
    _check_names_match(model, recipe, linear_layers)
    # peft sets these to the local folder.
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path, config.revision = recipe.model.id, recipe.model.revision
    return model


def lora_config(method: Method) -> LoraConfig:
    """Map the method to peft's config."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=_as_int_if_whole(method.lora_alpha),
        lora_dropout=method.lora_dropout,
        target_modules=ALL_LINEAR[0] if method.target_modules == ALL_LINEAR else list(method.target_modules),
        rank_pattern=dict(method.rank_pattern),
        alpha_pattern={pattern: _as_int_if_whole(alpha) for pattern, alpha in method.alpha_pattern.items()},
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        modules_to_save=list(method.modules_to_save) or None,
    )


def _as_int_if_whole(alpha: float) -> int:
    """Convert whole numbers to int, which readers of adapter configs expect; peft also accepts other numbers."""
    return int(alpha) if alpha.is_integer() else alpha  # type: ignore[return-value]


def _check_names_match(model: PeftModel, recipe: Recipe, linear_layers: list[str]) -> None:
    """Check that every name matches: peft requires only one match, and would silently ignore a misspelled name."""
    method = recipe.method
    targeted = list(model.base_model.targeted_module_names)  # type: ignore[arg-type]
    modules = [name for name, _ in model.get_base_model().named_modules()]
    names = () if method.target_modules == ALL_LINEAR else method.target_modules
    patterns = [("target_modules", name, re.escape(name), targeted) for name in names]
    patterns += [("modules_to_save", name, re.escape(name), modules) for name in method.modules_to_save]
    patterns += [("rank_pattern", pattern, pattern, targeted) for pattern in method.rank_pattern]
    patterns += [("alpha_pattern", pattern, pattern, targeted) for pattern in method.alpha_pattern]
    for field, name, pattern, candidates in patterns:
        # Same as `peft.utils.get_pattern_key`.
        if not any(re.match(rf"(.*\.)?({pattern})$", candidate) for candidate in candidates):
            raise _mismatch(
                f"method.{field} contains {name!r}, which matches no module of {recipe.model.id}.", linear_layers
            )


def _mismatch(message: str, linear_layers: list[str]) -> AirsmithError:
    hint = f"Correct method.* in the recipe: the linear layers of this model are {', '.join(linear_layers)}."
    return AirsmithError(ErrorKind.BAD_RECIPE, message, hint)


def _linear_layers(model: nn.Module) -> list[str]:
    """Last components of the names of the model's linear layers, as used in recipes."""
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
