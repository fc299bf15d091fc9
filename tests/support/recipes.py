"""Valid recipes."""

from __future__ import annotations

from typing import Any

from airsmith.recipe import Recipe


def recipe_content(**sections: Any) -> dict[str, Any]:
    """The smallest valid recipe as a mapping.

    :param sections: override the sections of the same name.
    """
    smallest = {"name": "tickets", "model": {"id": "a/b"}, "dataset": {"id": "c/d", "validation_fraction": 0.1}}
    return {**smallest, **sections}


def new_recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(recipe_content(**sections))


def pinned_recipe(**sections: Any) -> Recipe:
    """A recipe whose model and dataset are pinned to commits, as `resolve` leaves it."""
    model = {"id": "a/b", "revision": "a" * 40}
    dataset = {"id": "c/d", "revision": "b" * 40, "validation_fraction": 0.1}
    return new_recipe(**{"model": model, "dataset": dataset, **sections})
