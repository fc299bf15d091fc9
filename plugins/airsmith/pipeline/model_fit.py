"""Fits a recipe to its base model: what the backend must check or resolve before it can train the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airsmith.backends import get_backend
from airsmith.backends.servers import check_sharding, server_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.decoder import read_decoder
from airsmith.recipe import Recipe

ReadConfig = Callable[[], Mapping[str, Any]]
"""Reads the base model's `config.json`; called only if the backend depends on it."""


def fit_to_model(recipe: Recipe, read_config: ReadConfig) -> Recipe:
    """Check that the backend can train the model, and resolve LoRA's target modules to the backend's names.

    :raises AirsmithError: `bad_recipe` if it cannot, or the error of reading the config.
    """
    if get_backend(recipe.backend.name).model_types:
        check_model(recipe, read_config())
    return name_targets(recipe)


def name_targets(recipe: Recipe) -> Recipe:
    """The recipe with LoRA's target modules resolved to the backend's names.

    :raises AirsmithError: `bad_recipe` if a target has none.
    """
    targets = get_backend(recipe.backend.name).target_modules(recipe)
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"target_modules": targets})})


def check_model(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Check that the recipe's backend can train the model, and that its engine can serve it.

    :raises AirsmithError: `bad_recipe`, naming the property that does not fit and what would.
    """
    backend = get_backend(recipe.backend.name)
    if recipe.serve.enabled:
        check_sharding(config, server_of(recipe))
    if not backend.model_types:
        return
    model_type = config.get("model_type")
    if model_type not in backend.model_types:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The base model {recipe.model.id} has type {model_type!r}, which backend.name {backend.name!r} does not "
            "support.",
            f"Choose a model of type {', '.join(backend.model_types)}, or train on 'cuda' or 'rocm'.",
        )
    backend.check_model(recipe, read_decoder(config))
