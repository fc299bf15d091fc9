"""Recipes to test with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airsmith.recipe import Recipe


def smallest() -> dict[str, Any]:
    """The least that a recipe needs."""
    return {"name": "x", "model": {"id": "a/b"}, "dataset": {"id": "c/d", "validation_fraction": 0.1}}


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate(smallest())


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe's file and give its path."""

    def write(text: str, name: str = "my-recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
