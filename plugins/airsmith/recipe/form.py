"""The trigger form as plain data, generated from the model: fields, their places and their JSON schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from airsmith.recipe import Recipe
from airsmith.recipe.validate import group_model

MAX_OPEN_FIELDS = 12
"""A longer open section would be hard to read."""

_SEPARATOR = "__"
_SCHEMA_WORDS = (
    "type", "enum", "items", "additionalProperties", "examples", "pattern", "format", "values_display",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
)  # fmt: skip


@dataclass(frozen=True)
class FormField:
    """A field of the form.

    :param name: name of the Airflow param: the dotted key with `__` for `.`.
    :param schema: keyword arguments of Airflow's `Param`: JSON schema, title, description, section.
    """

    name: str
    default: Any
    schema: Mapping[str, Any]


def form_fields(recipe: Recipe) -> list[FormField]:
    """The form of a recipe, with its values as defaults: open section, then groups, then `overrides`."""
    values = recipe.model_dump(mode="json")
    fields = [FormField(_name(key), _lookup(values, key), schema) for key, schema in _form_schemas().items()]
    fields.sort(key=lambda field: "section" in field.schema)
    return [*fields, _overrides_field()]


def form_changes(recipe: Recipe, form: Mapping[str, Any]) -> dict[str, Any]:
    """The form's values that differ from the recipe's, by dotted key."""
    values = recipe.model_dump(mode="json")
    submitted = {name.replace(_SEPARATOR, "."): value for name, value in form.items()}
    return {
        key: value for key, value in submitted.items() if key not in _form_schemas() or _lookup(values, key) != value
    }


def form_schema(node: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a JSON schema that Airflow's form reads, with a list of types in place of `anyOf`."""
    if "anyOf" in node:
        (only,) = (option for option in node["anyOf"] if option != {"type": "null"})
        node = {**node, **only, "type": [only["type"], "null"]}
    return {word: node[word] for word in _SCHEMA_WORDS if word in node}


@cache
def fixed_keys() -> tuple[str, ...]:
    """Dotted keys of the fields and groups that shape the graph and that the form does not show."""
    return tuple(key for key, place in _places(Recipe, "") if place == "absent")


@cache
def _form_schemas() -> dict[str, dict[str, Any]]:
    fixed = fixed_keys()
    root = Recipe.model_json_schema()
    return {
        key: _param_schema(key, _schema_at(root, key))
        for key, place in _places(Recipe, "")
        if place in ("open", "collapsed") and not any(key == name or key.startswith(f"{name}.") for name in fixed)
    }


def _places(model: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted key and form place of every field; a group is listed only if it is absent."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra or {}
        group = group_model(field.annotation)
        if group is None or extra["form"] == "absent":
            yield f"{prefix}{name}", str(extra["form"])
        else:
            yield from _places(group, f"{prefix}{name}.")


def _schema_at(root: dict[str, Any], key: str) -> dict[str, Any]:
    node = root
    for part in key.split("."):
        node = node["properties"][part]
        reference = node.get("$ref")
        if reference is not None:
            node = root["$defs"][reference.rsplit("/", 1)[-1]]
    return node


def _param_schema(key: str, node: dict[str, Any]) -> dict[str, Any]:
    description, unit, place = node["description"], node["unit"], node["form"]
    schema = form_schema(node)
    schema["title"] = key
    schema["description_md"] = f"{description} Unit: {unit}." if unit else description
    if place == "collapsed":
        schema["section"] = key.split(".")[0].capitalize()
    return schema


def _overrides_field() -> FormField:
    schema = {
        "type": ["object", "null"],
        "title": "overrides",
        "description_md": 'Recipe fields by key, for example `{"training.seed": 7}`; takes precedence over the form.',
        "section": "Overrides",
    }
    return FormField("overrides", {}, schema)


def _name(key: str) -> str:
    return key.replace(".", _SEPARATOR)


def _lookup(values: Mapping[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node[part]
    return node
