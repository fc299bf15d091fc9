"""A recipe and its base model: what the backend must know of the model before it trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airsmith.backends import get_backend
from airsmith.backends.servers import check_parts, server_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.decoder import read_decoder
from airsmith.recipe import Recipe

ReadConfig = Callable[[], Mapping[str, Any]]
"""Reads the base model's `config.json`; called only where the backend depends on it."""


def fit_to_model(recipe: Recipe, read_config: ReadConfig) -> Recipe:
    """The recipe with its targets of LoRA in the backend's words, once the backend can train its model.

    :raises AirsmithError: `bad_recipe` where it cannot, or of the kind that says why the config cannot be read.
    """
    if get_backend(recipe.backend.name).model_types:
        check_model(recipe, read_config())
    return name_targets(recipe)


def name_targets(recipe: Recipe) -> Recipe:
    """The recipe with its targets of LoRA in the backend's words.

    :raises AirsmithError: `bad_recipe` where a target has none.
    """
    targets = get_backend(recipe.backend.name).target_modules(recipe)
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"target_modules": targets})})


def check_model(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Refuse a model that the recipe's backend cannot train, or its server not serve, as the recipe says.

    :raises AirsmithError: `bad_recipe`, naming what of the model does not fit, and what would.
    """
    backend = get_backend(recipe.backend.name)
    if recipe.serve.enabled:
        check_parts(config, server_of(recipe))
    if not backend.model_types:
        return
    model_type = config.get("model_type")
    if model_type not in backend.model_types:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The base model {recipe.model.id} is of type {model_type!r}, which backend.name {backend.name!r} has no "
            "layers of its own for.",
            f"Choose a model of type {', '.join(backend.model_types)}, or train on 'cuda' or 'rocm'.",
        )
    backend.check_model(recipe, read_decoder(config))
