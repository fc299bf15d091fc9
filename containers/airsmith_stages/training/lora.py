"""LoRA on a base model, as the recipe's method says."""

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

    :raises AirsmithError: `bad_recipe` where the method names what the model does not have.
    """
    linear_layers = _linear_layers(base)
    try:
        model = get_peft_model(base, lora_config(recipe.method))
    except ValueError as error:
        raise _misfit(
            f"peft cannot add LoRA to {recipe.model.id}: {str(error).splitlines()[0]}", linear_layers
        ) from error
    _refuse_unmatched_names(model, recipe, linear_layers)
    # Peft has put the folder on this disk there.
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path, config.revision = recipe.model.id, recipe.model.revision
    return model


def lora_config(method: Method) -> LoraConfig:
    """The method in peft's words."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=_plain(method.lora_alpha),
        lora_dropout=method.lora_dropout,
        target_modules=ALL_LINEAR[0] if method.target_modules == ALL_LINEAR else list(method.target_modules),
        rank_pattern=dict(method.rank_pattern),
        alpha_pattern={pattern: _plain(alpha) for pattern, alpha in method.alpha_pattern.items()},
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        modules_to_save=list(method.modules_to_save) or None,
    )


def _plain(alpha: float) -> int:
    """Whole numbers as ints, as every reader of an adapter's config expects them; peft computes with others as well."""
    return int(alpha) if alpha.is_integer() else alpha  # type: ignore[return-value]


def _refuse_unmatched_names(model: PeftModel, recipe: Recipe, linear_layers: list[str]) -> None:
    """Peft is content when one of several names matches: a misspelt one would stay untrained in silence."""
    method = recipe.method
    targeted = list(model.base_model.targeted_module_names)  # type: ignore[arg-type]
    modules = [name for name, _ in model.get_base_model().named_modules()]
    names = () if method.target_modules == ALL_LINEAR else method.target_modules
    wanted = [("target_modules", name, re.escape(name), targeted) for name in names]
    wanted += [("modules_to_save", name, re.escape(name), modules) for name in method.modules_to_save]
    wanted += [("rank_pattern", pattern, pattern, targeted) for pattern in method.rank_pattern]
    wanted += [("alpha_pattern", pattern, pattern, targeted) for pattern in method.alpha_pattern]
    for field, name, pattern, candidates in wanted:
        # As `peft.utils.get_pattern_key` matches.
        if not any(re.match(rf"(.*\.)?({pattern})$", candidate) for candidate in candidates):
            raise _misfit(f"method.{field} has {name!r}, which no module of {recipe.model.id} matches.", linear_layers)


def _misfit(message: str, linear_layers: list[str]) -> AirsmithError:
    hint = f"Correct the recipe's method: the linear layers of this model are {', '.join(linear_layers)}."
    return AirsmithError(ErrorKind.BAD_RECIPE, message, hint)


def _linear_layers(model: nn.Module) -> list[str]:
    """Last names of the model's linear layers, as a recipe would write them."""
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
