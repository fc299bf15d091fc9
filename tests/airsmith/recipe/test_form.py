"""The trigger form has the fields that vary per run, few of them open, each of a type that Airflow supports."""

from __future__ import annotations

import pytest

from airsmith.recipe import Recipe
from airsmith.recipe.form import MAX_OPEN_FIELDS, FormField, fixed_keys, form_fields

AIRFLOW_TYPES = {"string", "integer", "number", "boolean", "array", "object"}


@pytest.fixture
def fields(recipe: Recipe) -> list[FormField]:
    return form_fields(recipe)


def test_the_open_fields_are_few_and_come_first(fields: list[FormField]) -> None:
    opened = [field for field in fields if "section" not in field.schema]
    assert 0 < len(opened) <= MAX_OPEN_FIELDS
    assert fields[: len(opened)] == opened


def test_every_field_has_one_type_and_optionally_null(fields: list[FormField]) -> None:
    for field in fields:
        kinds = field.schema["type"]
        kinds = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
        assert len(kinds) == 1, field.name
        assert kinds[0] in AIRFLOW_TYPES, field.name


def test_no_schema_has_references_or_alternatives(fields: list[FormField]) -> None:
    assert not any("$ref" in str(field.schema) or "anyOf" in str(field.schema) for field in fields)


def test_every_field_has_a_description_and_its_key_as_title(fields: list[FormField]) -> None:
    for field in fields:
        assert field.schema["description_md"], field.name
        assert field.schema["title"] == field.name.replace("__", ".")


def test_every_enum_value_has_a_label(fields: list[FormField]) -> None:
    enums = [field for field in fields if "enum" in field.schema]
    assert enums
    for field in enums:
        assert set(field.schema["values_display"]) == set(field.schema["enum"]), field.name


def test_fields_that_shape_the_graph_are_absent(fields: list[FormField]) -> None:
    names = {field.name.replace("__", ".") for field in fields}
    for fixed in fixed_keys():
        assert not any(name == fixed or name.startswith(f"{fixed}.") for name in names)
    assert {"backend", "evaluate.backend", "serve.enabled", "schedule", "name", "secrets"} <= set(fixed_keys())


def test_defaults_are_the_values_of_the_recipe(recipe: Recipe) -> None:
    changed = recipe.model_copy(update={"method": recipe.method.model_copy(update={"r": 3})})
    defaults = {field.name: field.default for field in form_fields(changed)}
    assert defaults["method__r"] == 3


def test_overrides_is_the_last_field(fields: list[FormField]) -> None:
    assert fields[-1].name == "overrides"
