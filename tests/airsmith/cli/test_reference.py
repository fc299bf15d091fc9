"""The schema and the generated pages match the models and the retry table."""

from __future__ import annotations

from pathlib import Path

import pytest

from airsmith.cli import main
from airsmith.cli.reference import command_page, error_page, recipe_page, settings_page
from airsmith.recipe import Recipe
from airsmith.recipe.schema import SCHEMA_FILE, recipe_schema, schema_text
from airsmith.recipe.validate import valid_keys
from airsmith.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"
STALE = "stale: run `make docs`"


def test_the_shipped_schema_is_the_models() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), STALE


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("reference/recipe.md", recipe_page()),
        ("reference/settings.md", settings_page()),
        ("reference/cli.md", command_page(main.app)),
        ("errors/index.md", error_page(DOCS)),
    ],
)
def test_a_generated_page_is_up_to_date(page: str, text: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == text, STALE


def test_every_key_stands_in_the_reference() -> None:
    for model, page in ((Recipe, recipe_page()), (Settings, settings_page())):
        for key in valid_keys(model):
            assert f"`{key}" in page


def test_a_file_needs_no_name() -> None:
    assert recipe_schema()["required"] == ["model", "dataset"]
