"""Every mistake in a recipe file is reported with its line, its key and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.load import load_recipe
from airsmith.recipe.validate import valid_keys, validate_recipe
from tests.support.repository import REPOSITORY

WriteRecipe = Callable[..., Path]

VALID = """\
model:
  id: a/b
dataset:
  id: c/d
  validation_fraction: 0.1
"""
RECIPES = sorted((REPOSITORY / "dags" / "recipes").glob("*.yaml"))


def mistakes_in(path: Path) -> list[str]:
    with pytest.raises(AirsmithError) as caught:
        load_recipe(path)
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    return caught.value.message.splitlines()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_with_the_name_of_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_the_name_of_a_recipe_comes_from_its_file(write_recipe: WriteRecipe) -> None:
    assert load_recipe(write_recipe(VALID, "My_Recipe.yaml")).name == "my-recipe"


def test_a_number_in_scientific_notation_is_a_number(write_recipe: WriteRecipe) -> None:
    assert load_recipe(write_recipe(VALID + "training:\n  learning_rate: 1e-4\n")).training.learning_rate == 1e-4


def test_a_misspelled_key_is_reported_with_its_line_and_the_nearest_key(write_recipe: WriteRecipe) -> None:
    path = write_recipe(VALID + "training:\n  seed: 1\n  learning_rte: 0.1\n")
    assert mistakes_in(path) == [
        f"{path}:8: training.learning_rte is not a recipe key; did you mean training.learning_rate?"
    ]


def test_a_key_in_the_wrong_section_is_reported_with_the_right_one(write_recipe: WriteRecipe) -> None:
    path = write_recipe(VALID + "learning_rate: 0.1\n")
    assert mistakes_in(path)[0].endswith("learning_rate is not a recipe key; did you mean training.learning_rate?")


def test_an_unknown_key_is_reported_with_the_keys_of_its_section(write_recipe: WriteRecipe) -> None:
    assert "valid keys are enabled, name, engine, mode" in mistakes_in(write_recipe(VALID + "serve:\n  zzz: 1\n"))[0]


def test_all_mistakes_are_reported_together(write_recipe: WriteRecipe) -> None:
    text = (
        "model:\n  id: a/b\n  revison: x\ndataset:\n  id: c/d\n  validation_fraction: 7\ntraining:\n  max_steps: no\n"
    )
    found = mistakes_in(write_recipe(text))
    assert [line.split(": ", 1)[0].rsplit(":", 1)[1] for line in found] == ["3", "6", "8"]


def test_no_message_contains_wording_of_pydantic(write_recipe: WriteRecipe) -> None:
    text = VALID + "training:\n  precision: fp8\n  max_steps: 1.5\n  seed: x\nmethod: 3\nserve:\n  name: A B\n"
    for line in mistakes_in(write_recipe(text)):
        assert not any(word in line for word in ("pydantic", "Input should", "Extra inputs", "Value error", "http"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no keys"),
        ("- a\n- b\n", "contains no keys"),
        ("model: [\n", "invalid YAML"),
        ("model:\n  id: a/b\nmodel:\n  id: c/d\n", "duplicate key model, first defined on line 1"),
        ("1: x\n", "a key must be a string"),
        ("model:\n  id: a/b\n", "dataset is missing"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused_in_one_sentence(
    write_recipe: WriteRecipe, text: str, message: str
) -> None:
    assert message in mistakes_in(write_recipe(text))[0]


def test_broken_utf8_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"model: \xff\n")
    assert "UTF-8" in mistakes_in(broken)[0]
    assert "does not exist" in mistakes_in(tmp_path / "missing.yaml")[0]


def test_a_chat_template_beside_the_recipe_is_read(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}", encoding="utf-8")
    path = write_recipe(VALID.replace("  validation", "  chat_template: chat.jinja\n  validation"))
    assert load_recipe(path).dataset.chat_template == "{{ messages }}"


def test_a_missing_chat_template_is_named(write_recipe: WriteRecipe) -> None:
    path = write_recipe(VALID.replace("  validation", "  chat_template: chat.jinja\n  validation"))
    assert f"{path}:5: dataset.chat_template refers to chat.jinja" in mistakes_in(path)[0]


@given(key=st.sampled_from([key for key in valid_keys(Recipe) if "." in key]), data=st.data())
def test_a_key_with_one_wrong_letter_is_corrected(key: str, data: st.DataObject) -> None:
    group, _, name = key.rpartition(".")
    position = data.draw(st.integers(0, len(name) - 1))
    typo = name[:position] + "q" + name[position + 1 :]
    if typo in name or len(name) < 5:
        return
    content: dict[str, object] = {"name": "x", "model": {"id": "a/b"}, "dataset": {"id": "c/d"}}
    inner: dict[str, object] = {typo: 1}
    for part in reversed(group.split(".")):
        inner = {part: inner}
    content.update(inner)
    with pytest.raises(AirsmithError) as caught:
        validate_recipe(content, lambda place: place)
    assert f"did you mean {key}?" in caught.value.message
