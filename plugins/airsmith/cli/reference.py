"""Generates the reference pages from the models of recipe and settings, the commands and the retry table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from airsmith.cli.app import app
from airsmith.errors.retries import RETRIES, Retry
from airsmith.recipe import Recipe
from airsmith.recipe.schema import SCHEMA_FILE, schema_text
from airsmith.recipe.validate import group_key, group_model
from airsmith.settings import ENVIRONMENT_PREFIX, Settings

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
_RETRY = {Retry.NEVER: "no", Retry.AT_ONCE: "immediately", Retry.BACK_OFF: "with backoff"}


def write_reference(docs: Path) -> list[Path]:
    """Regenerate the schema and the pages.

    :returns: the files written.
    """
    pages = {
        SCHEMA_FILE: schema_text(),
        docs / "reference" / "recipe.md": recipe_page(),
        docs / "reference" / "settings.md": settings_page(),
        docs / "reference" / "cli.md": command_page(app),
        docs / "errors" / "index.md": error_page(docs),
    }
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return list(pages)


def recipe_page() -> str:
    """`docs/reference/recipe.md`."""
    head = (
        "# Recipe reference\n\n"
        "A recipe is one YAML file.\n"
        "`airsmith recipe check FILE` validates it, and `airsmith recipe schema` prints its JSON Schema for editors.\n"
        "`make docs` generates this page from the recipe's model.\n"
    )
    return head + "".join(_group_tables(Recipe, "", "Top level"))


def settings_page() -> str:
    """`docs/reference/settings.md`."""
    head = (
        "# Settings reference\n\n"
        "Settings configure a deployment of Airsmith: where stages run, where artifacts are stored,"
        " which images are used.\n"
        "Set them in a YAML file that `AIRSMITH_SETTINGS` names, or in environment variables"
        f" `{ENVIRONMENT_PREFIX}<KEY>` with `__` for `.`.\n"
        "A variable takes precedence over the file.\n"
        "`airsmith settings show` prints every setting with the source of its value.\n"
        "`make docs` generates this page from the settings' model.\n"
    )
    return head + "".join(_group_tables(Settings, "", "Top level"))


def error_page(docs: Path) -> str:
    """`docs/errors/index.md`: each kind with its retry and the first sentence of its own page."""
    head = (
        "# Errors\n\n"
        "Every failure has one of these kinds.\n"
        "A failed stage prints its kind, message and hint as one line of JSON, the last line of its log.\n"
        "In Airflow, a retry takes one of the task's attempts, `backends.<name>.retries` of the"
        " [settings](../reference/settings.md).\n"
        "With backoff, the first pause is `retry_delay_seconds`, and each further pause is twice as long,"
        " up to 10 minutes.\n"
        "`airsmith run` does not retry; when you repeat the command, it reuses what the store already contains.\n"
        "`make docs` generates this page.\n"
        "\n| kind | meaning | retry |\n|---|---|---|\n"
    )
    return head + "".join(
        f"| [`{kind.value}`]({kind.value}.md) | {_meaning(docs / 'errors' / f'{kind.value}.md')} | {_RETRY[retry]} |\n"
        for kind, retry in RETRIES.items()
    )


def command_page(application: typer.Typer) -> str:
    """`docs/reference/cli.md`: every command with its arguments and options.

    :param application: the command line, after all its commands were imported.
    """
    head = (
        "# Command reference\n\n"
        "The command `airsmith` is part of the package `airsmith`.\n"
        "Its exit code is 0 on success, 1 after an error, which it prints with a hint,"
        " and 2 if the command line is invalid.\n"
        "`make docs` generates this page.\n"
    )
    return head + "".join(_command_sections(typer.main.get_command(application), "airsmith"))


def _command_sections(command: Any, name: str) -> Iterator[str]:
    """The sections of a command of click, or of the commands in a group."""
    if hasattr(command, "commands"):
        for child in sorted(command.commands):
            yield from _command_sections(command.commands[child], f"{name} {child}")
        return
    sentences = re.sub(r"(?<=\.) (?=[A-Z])", "\n", _one_line(command.help))
    yield f"\n## {name}\n\n{sentences}\n"
    rows = [
        f"| {', '.join(f'`{option}`' for option in parameter.opts)} | {_one_line(getattr(parameter, 'help', ''))} |"
        for parameter in command.params
        if parameter.name != "help"
    ]
    if rows:
        yield "\n| argument or option | description |\n|---|---|\n" + "\n".join(rows) + "\n"


def _one_line(text: str | None) -> str:
    """A help text without line breaks, for a cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def _meaning(page: Path) -> str:
    """The first line of a page below its heading."""
    return page.read_text(encoding="utf-8").splitlines()[2].replace("|", "\\|")


def _group_tables(model: type[BaseModel], prefix: str, heading: str) -> Iterator[str]:
    rows, groups = [], []
    for name, field in model.model_fields.items():
        group = group_model(field.annotation)
        if group is None:
            rows.append(_row(f"{prefix}{name}", field, model.model_json_schema()["properties"][name]))
        else:
            groups.append((group, f"{prefix}{group_key(name, field.annotation)}", field.description or ""))
    if rows:
        head = "| key | type | default | bounds | description |\n|---|---|---|---|---|\n"
        yield f"\n## {heading}\n\n{head}" + "\n".join(rows) + "\n"
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
        return f"list of {_type(schema['items']) or 'any value'}"
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
