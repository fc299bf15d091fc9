"""Every mistake in a recipe's file is told with its line, its key and the remedy."""

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

Write = Callable[..., Path]

GOOD = """\
model:
  id: a/b
dataset:
  id: c/d
  validation_fraction: 0.1
"""
RECIPES = sorted((Path(__file__).parents[3] / "dags" / "recipes").glob("*.yaml"))


def mistakes_in(path: Path) -> list[str]:
    with pytest.raises(AirsmithError) as caught:
        load_recipe(path)
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    return caught.value.message.splitlines()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_is_shipped_loads_under_its_files_name(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_a_recipe_takes_its_name_from_its_file(write_recipe: Write) -> None:
    assert load_recipe(write_recipe(GOOD, "My_Recipe.yaml")).name == "my-recipe"


def test_a_number_in_scientific_notation_is_a_number(write_recipe: Write) -> None:
    assert load_recipe(write_recipe(GOOD + "training:\n  learning_rate: 1e-4\n")).training.learning_rate == 1e-4


def test_a_misspelt_key_names_the_nearest_one_and_its_line(write_recipe: Write) -> None:
    path = write_recipe(GOOD + "training:\n  seed: 1\n  learning_rte: 0.1\n")
    assert mistakes_in(path) == [
        f"{path}:8: training.learning_rte is not a recipe key; did you mean training.learning_rate?"
    ]


def test_a_key_in_the_wrong_group_is_told_where_it_belongs(write_recipe: Write) -> None:
    path = write_recipe(GOOD + "learning_rate: 0.1\n")
    assert mistakes_in(path)[0].endswith("learning_rate is not a recipe key; did you mean training.learning_rate?")


def test_a_key_like_no_other_lists_the_keys_of_its_group(write_recipe: Write) -> None:
    assert "the keys here are enabled, name, engine, mode" in mistakes_in(write_recipe(GOOD + "serve:\n  zzz: 1\n"))[0]


def test_all_mistakes_are_told_at_once(write_recipe: Write) -> None:
    text = (
        "model:\n  id: a/b\n  revison: x\ndataset:\n  id: c/d\n  validation_fraction: 7\ntraining:\n  max_steps: no\n"
    )
    found = mistakes_in(write_recipe(text))
    assert [line.split(": ", 1)[0].rsplit(":", 1)[1] for line in found] == ["3", "6", "8"]


def test_no_message_speaks_pydantic(write_recipe: Write) -> None:
    text = GOOD + "training:\n  precision: fp8\n  max_steps: 1.5\n  seed: x\nmethod: 3\nserve:\n  name: A B\n"
    for line in mistakes_in(write_recipe(text)):
        assert not any(word in line for word in ("pydantic", "Input should", "Extra inputs", "Value error", "http"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("model: [\n", "this is no YAML"),
        ("model:\n  id: a/b\nmodel:\n  id: c/d\n", "model stands here and on line 1"),
        ("1: x\n", "a key must be a word"),
        ("model:\n  id: a/b\n", "dataset is missing"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(write_recipe: Write, text: str, said: str) -> None:
    assert said in mistakes_in(write_recipe(text))[0]


def test_broken_utf8_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"model: \xff\n")
    assert "UTF-8" in mistakes_in(broken)[0]
    assert "There is no file" in mistakes_in(tmp_path / "missing.yaml")[0]


def test_a_chat_template_beside_the_recipe_is_read(write_recipe: Write, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}", encoding="utf-8")
    path = write_recipe(GOOD.replace("  validation", "  chat_template: chat.jinja\n  validation"))
    assert load_recipe(path).dataset.chat_template == "{{ messages }}"


def test_a_chat_template_that_is_not_there_is_named(write_recipe: Write) -> None:
    path = write_recipe(GOOD.replace("  validation", "  chat_template: chat.jinja\n  validation"))
    assert f"{path}:5: dataset.chat_template names chat.jinja" in mistakes_in(path)[0]


@given(key=st.sampled_from([key for key in valid_keys(Recipe) if "." in key]), data=st.data())
def test_one_wrong_letter_in_any_key_is_corrected(key: str, data: st.DataObject) -> None:
    """Whatever key it is, and wherever the slip."""
    group, _, name = key.rpartition(".")
    position = data.draw(st.integers(0, len(name) - 1))
    slip = name[:position] + "q" + name[position + 1 :]
    if slip in name or len(name) < 5:
        return
    content: dict[str, object] = {"name": "x", "model": {"id": "a/b"}, "dataset": {"id": "c/d"}}
    inner: dict[str, object] = {slip: 1}
    for part in reversed(group.split(".")):
        inner = {part: inner}
    content.update(inner)
    with pytest.raises(AirsmithError) as caught:
        validate_recipe(content, lambda place: place)
    assert f"did you mean {key}?" in caught.value.message
