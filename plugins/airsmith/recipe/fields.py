"""Declaration of recipe fields: default, bounds, description, and place in the trigger form."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

FormPlace = Literal["open", "collapsed", "absent"]
"""Place of a field in the trigger form: at the top, in the collapsed section of its group, or not shown."""


class RecipeSection(BaseModel):
    """A group of recipe fields. It rejects unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def recipe_field(
    default: Any = ...,
    *,
    description: str,
    unit: str = "",
    form: FormPlace = "collapsed",
    labels: dict[str, str] | None = None,
    **bounds: Any,
) -> Any:
    """Declare a recipe field.

    :param description: one sentence for the reference, the editor's tooltip and the trigger form.
    :param unit: the unit of a number, for example ``tokens`` or ``optimizer steps``.
    :param form: place in the trigger form; ``absent`` for fields that shape the graph.
    :param labels: labels that the form shows instead of an enum's values.
    :param bounds: pydantic's constraints (``ge``, ``max_length``, ``pattern``, ``examples``, …).
    """
    extra: dict[str, JsonValue] = {"unit": unit, "form": form}
    if labels:
        extra["values_display"] = dict(labels)  # the key that Airflow reads
    if "default_factory" in bounds:
        return Field(description=description, json_schema_extra=extra, **bounds)
    return Field(default, description=description, json_schema_extra=extra, **bounds)
