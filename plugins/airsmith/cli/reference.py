"""The reference pages of recipe and settings, made from the models that they describe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from airsmith.recipe import Recipe
from airsmith.recipe.schema import SCHEMA_FILE, schema_text
from airsmith.recipe.validate import group_key, group_model
from airsmith.settings import ENVIRONMENT_PREFIX, Settings

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}


def write_reference(docs: Path) -> list[Path]:
    """Write schema and pages anew.

    :returns: the files written.
    """
    pages = {SCHEMA_FILE: schema_text(), docs / "recipe.md": recipe_page(), docs / "settings.md": settings_page()}
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return list(pages)


def recipe_page() -> str:
    """`docs/recipe.md`."""
    head = (
        "# Recipe reference\n\n"
        "Made from the model by `make docs`. A recipe is one YAML file; `airsmith recipe check FILE` checks it.\n"
    )
    return head + "".join(_group_tables(Recipe, "", "The recipe itself"))


def settings_page() -> str:
    """`docs/settings.md`."""
    head = (
        "# Settings reference\n\n"
        "Made from the model by `make docs`. What a platform engineer decides once per deployment: a YAML file that\n"
        f"`AIRSMITH_SETTINGS` names, or variables `{ENVIRONMENT_PREFIX}<KEY>` with `__` for `.`, which win.\n"
        "`airsmith settings show` says where each value comes from.\n"
    )
    return head + "".join(_group_tables(Settings, "", "The settings"))


def _group_tables(model: type[BaseModel], prefix: str, heading: str) -> Iterator[str]:
    rows, groups = [], []
    for name, field in model.model_fields.items():
        group = group_model(field.annotation)
        if group is None:
            rows.append(_row(f"{prefix}{name}", field, model.model_json_schema()["properties"][name]))
        else:
            groups.append((group, f"{prefix}{group_key(name, field.annotation)}", field.description or ""))
    yield f"\n## {heading}\n\n| key | type | default | bounds | |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for group, key, description in groups:
        yield from _group_tables(group, f"{key}.", f"`{key}`: {description.rstrip('.')}")


def _row(key: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    unit = f" ({extra['unit']})" if extra.get("unit") else ""
    cells = (f"`{key}`", _type(schema), _default(field), _bounds(field) + unit, field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join("empty" if option == {"type": "null"} else _type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) else "mapping"
    return str(schema.get("type", schema.get("$ref", "").rsplit("/", 1)[-1]))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return "empty"
    return f"`{json.dumps(value, default=str)}`"


def _bounds(field: FieldInfo) -> str:
    found = [(name, getattr(item, name, None)) for item in field.metadata for name in _BOUNDS]
    return ", ".join(f"{_BOUNDS[name]} {value}" for name, value in found if value is not None)
