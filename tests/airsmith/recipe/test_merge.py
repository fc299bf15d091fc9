"""File, form and overrides merge into one recipe: later values win, and the changed fields are listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airsmith.errors import AirsmithError
from airsmith.recipe.form import form_fields
from airsmith.recipe.load import load_recipe
from airsmith.recipe.merge import merge_recipe

FILE = """\
model:
  id: a/b
dataset:
  id: c/d
  validation_fraction: 0.1
training:
  num_train_epochs: 2
  learning_rate: 0.001
"""


@pytest.fixture
def path(write_recipe: Callable[[str], Path]) -> Path:
    return write_recipe(FILE)


def test_an_untouched_form_changes_nothing(path: Path) -> None:
    form = {field.name: field.default for field in form_fields(load_recipe(path)) if field.name != "overrides"}
    merged = merge_recipe(path, form, {})
    assert merged.changed_fields == ()
    assert merged.recipe == load_recipe(path)


def test_overrides_win_over_the_form_and_the_form_over_the_file(path: Path) -> None:
    form = {"training__learning_rate": 0.01, "method__r": 8}
    merged = merge_recipe(path, form, {"training.learning_rate": 0.1})
    assert (merged.recipe.training.learning_rate, merged.recipe.method.r) == (0.1, 8)
    assert merged.changed_fields == ("method.r", "training.learning_rate")


def test_overrides_may_be_nested_or_dotted(path: Path) -> None:
    nested = merge_recipe(path, {}, {"training": {"seed": 7}})
    assert nested == merge_recipe(path, {}, {"training.seed": 7})


def test_an_emptied_form_field_removes_the_value(path: Path) -> None:
    merged = merge_recipe(path, {"training__num_train_epochs": None, "training__max_steps": 5}, {})
    assert (merged.recipe.training.epochs, merged.recipe.training.max_steps) == (None, 5)


def test_a_message_about_merged_values_names_the_file_and_the_changes(path: Path) -> None:
    with pytest.raises(AirsmithError, match=r"my-recipe.yaml with training.max_steps set to 5"):
        merge_recipe(path, {"training__max_steps": 5}, {})


def test_a_misspelled_override_is_reported_with_the_nearest_key(path: Path) -> None:
    with pytest.raises(AirsmithError, match=r"did you mean training.learning_rate\?"):
        merge_recipe(path, {}, {"training.learning_rte": 1})


@pytest.mark.parametrize(
    "overrides",
    [
        {"backend.name": "cuda"},
        {"backend": {"devices": 2}},
        {"evaluate.backend": "cuda"},
        {"serve.enabled": False},
        {"schedule": "@daily"},
        {"name": "other"},
        {"secrets": {"hf_token": {"environment": "X"}}},
    ],
)
def test_overrides_of_fields_that_shape_the_graph_are_refused(path: Path, overrides: dict[str, object]) -> None:
    with pytest.raises(AirsmithError) as caught:
        merge_recipe(path, {}, overrides)
    assert "shapes the DAG" in caught.value.message
    assert "Edit my-recipe.yaml" in caught.value.hint


def test_an_override_equal_to_the_file_is_not_a_change(path: Path) -> None:
    assert merge_recipe(path, {}, {"serve.enabled": True, "training.learning_rate": 0.001}).changed_fields == ()


def test_overrides_that_are_not_a_mapping_are_refused(path: Path) -> None:
    with pytest.raises(AirsmithError, match="keys and values"):
        merge_recipe(path, {}, ["training.seed"])  # type: ignore[arg-type]
