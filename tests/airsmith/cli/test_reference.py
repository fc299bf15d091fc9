"""The schema and the reference pages match the models."""

from __future__ import annotations

import pytest

from airsmith.cli.reference import recipe_page, settings_page
from airsmith.recipe import Recipe
from airsmith.recipe.schema import SCHEMA_FILE, recipe_schema, schema_text
from airsmith.recipe.validate import valid_keys
from airsmith.settings import Settings
from tests.support.repository import REPOSITORY

DOCS = REPOSITORY / "docs"
STALE = "stale: run `make docs`"


def test_the_schema_file_is_up_to_date() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), STALE


@pytest.mark.parametrize(("page", "text"), [("recipe.md", recipe_page()), ("settings.md", settings_page())])
def test_a_reference_page_is_up_to_date(page: str, text: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == text, STALE


def test_every_key_is_in_the_reference() -> None:
    for model, page in ((Recipe, recipe_page()), (Settings, settings_page())):
        for key in valid_keys(model):
            assert f"`{key}" in page


def test_the_schema_requires_only_model_and_dataset() -> None:
    assert recipe_schema()["required"] == ["model", "dataset"]
