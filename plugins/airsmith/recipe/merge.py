"""Merging of recipe file, trigger form and overrides. Later sources take precedence; changed fields are listed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.dotted_keys import flatten
from airsmith.recipe.form import fixed_keys, form_changes
from airsmith.recipe.load import read_recipe_file
from airsmith.recipe.validate import validate_recipe


@dataclass(frozen=True)
class MergedRecipe:
    """The effective recipe of a run.

    :param changed_fields: dotted keys whose values differ from the file.
    """

    recipe: Recipe
    changed_fields: tuple[str, ...]


def merge_recipe(path: Path, form: Mapping[str, Any], overrides: Mapping[str, Any]) -> MergedRecipe:
    """Merge a recipe file with the values of the trigger form, then with overrides.

    :param form: values by form field name; values equal to the file's are no changes.
    :param overrides: values by key, nested or dotted; null removes a value.
    :raises AirsmithError: `bad_recipe`, with the location of each mistake.
    """
    file = read_recipe_file(path)
    original = validate_recipe(file.content, file.place)
    changes = {**form_changes(original, form), **_dotted(overrides)}
    _check_fixed(changes, original, path)
    content = copy.deepcopy(dict(file.content))
    for key, value in changes.items():
        _set(content, key, value)

    def place(key: str) -> str:
        changed = next((each for each in changes if _overlap(each, key)), None)
        return file.place(key) if changed is None else f"{path.name} with {changed} set to {changes[changed]!r}"

    recipe = validate_recipe(content, place)
    return MergedRecipe(recipe, _differences(original, recipe))


def _dotted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by dotted key."""
    if not isinstance(overrides, Mapping):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"overrides is {overrides!r}, but must be a mapping of keys and values.",
            'Write, for example, {"training.seed": 1}.',
        )
    return flatten(overrides)


def _check_fixed(changes: Mapping[str, Any], original: Recipe, path: Path) -> None:
    """Reject changes of fields that shape the graph or the placement, which are fixed when the DAG is parsed."""
    current = flatten(original.model_dump(mode="json"))
    for key, value in changes.items():
        fixed = next((name for name in fixed_keys() if _overlap(key, name)), None)
        if fixed is not None and current.get(key, ...) != value:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"{key} cannot be changed for a single run: {fixed} shapes the DAG, which is built from the file.",
                f"Edit {path.name} instead.",
            )


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        inner = content.get(group)
        content[group] = dict(inner) if isinstance(inner, Mapping) else {}
        content = content[group]
    if value is None:
        content.pop(name, None)
    else:
        content[name] = value


def _differences(original: Recipe, recipe: Recipe) -> tuple[str, ...]:
    before, after = (flatten(item.model_dump(mode="json")) for item in (original, recipe))
    return tuple(sorted(key for key in before.keys() | after.keys() if before.get(key, ...) != after.get(key, ...)))
