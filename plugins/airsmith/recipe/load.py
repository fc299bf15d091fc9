"""Loading of recipe files. All mistakes are reported together, each with line, key and remedy."""

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
    """A recipe file that is read but not validated.

    :param content: the file's content, with the defaults that depend on the file: name and text of the chat template.
    """

    path: Path
    content: Mapping[str, Any]
    yaml: YamlFile

    def place(self, key: str) -> str:
        """Location of a dotted key for messages: `path:line`."""
        return f"{self.path}:{self.yaml.line(key)}"


def load_recipe(path: Path) -> Recipe:
    """Load and validate the recipe in a file.

    :raises AirsmithError: `bad_recipe`, one line per mistake: file and line, key, cause and remedy.
    """
    file = read_recipe_file(path)
    return validate_recipe(file.content, file.place)


def read_recipe_file(path: Path) -> RecipeFile:
    """Read a recipe file without validating its fields.

    :raises AirsmithError: `bad_recipe` if the file is missing or is not a YAML mapping.
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
    """The text of a template: the content of a file next to the recipe, or the value itself."""
    if not template.endswith(_TEMPLATE_SUFFIXES) or "\n" in template:
        return template
    file = path.parent / template
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{path}:{yaml.line('dataset.chat_template')}: dataset.chat_template refers to {template}, "
            "which cannot be read.",
            f"Put the file at {file}, or write the text of the template into the recipe.",
        ) from error
