"""Read a recipe's file. Every mistake is told with its line, its key and the remedy, all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.validate import validate_recipe
from airsmith.recipe.yaml_file import YamlFile, read_yaml

_TEMPLATE_SUFFIXES = (".jinja", ".jinja2", ".j2")


@dataclass(frozen=True)
class RecipeFile:
    """A recipe's file, read but not yet checked.

    :param content: what stands in it, with the defaults that depend on the file: its name, its chat template's text.
    """

    path: Path
    content: Mapping[str, Any]
    yaml: YamlFile

    def place(self, key: str) -> str:
        """Where a dotted key stands, for messages: `path:line`."""
        return f"{self.path}:{self.yaml.line(key)}"


def load_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    :raises AirsmithError: `bad_recipe`, one line per mistake: file and line, key, cause and remedy.
    """
    file = read_recipe_file(path)
    return validate_recipe(file.content, file.place)


def read_recipe_file(path: Path) -> RecipeFile:
    """Read a recipe's file without checking its fields.

    :raises AirsmithError: `bad_recipe` where it is missing or no YAML mapping.
    """
    yaml = read_yaml(path)
    content = {"name": _name_of(path), **yaml.content}
    dataset = content.get("dataset")
    if isinstance(dataset, Mapping) and isinstance(dataset.get("chat_template"), str):
        content["dataset"] = {**dataset, "chat_template": _template_text(dataset["chat_template"], path, yaml)}
    return RecipeFile(path, content, yaml)


def _name_of(path: Path) -> str:
    return path.stem.lower().replace("_", "-")


def _template_text(template: str, path: Path, yaml: YamlFile) -> str:
    """The text of a template that names a file beside the recipe; any other template is text already."""
    if not template.endswith(_TEMPLATE_SUFFIXES) or "\n" in template:
        return template
    file = path.parent / template
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{path}:{yaml.line('dataset.chat_template')}: dataset.chat_template names {template}, "
            "which cannot be read.",
            f"Put the file at {file}, or write the template's text into the recipe.",
        ) from error
