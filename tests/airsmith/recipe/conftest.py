"""A recipe, and recipe files with a given text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airsmith.recipe import Recipe
from tests.support.recipes import new_recipe


@pytest.fixture
def recipe() -> Recipe:
    return new_recipe()


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe file and returns its path."""

    def write(text: str, name: str = "my-recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
