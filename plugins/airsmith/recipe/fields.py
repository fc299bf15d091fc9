"""How a recipe's fields are declared: bounds and default, words for people, a place in the trigger form."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

FormPlace = Literal["open", "collapsed", "absent"]
"""Where the trigger form shows a field: at the top, in its group's collapsed section, or not at all."""


class RecipeSection(BaseModel):
    """A group of recipe fields. Unknown keys are errors, and a validated section does not change."""

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
    :param form: where the trigger form shows the field; ``absent`` for what shapes the graph.
    :param labels: what the form says for each value of an enum, in place of the bare value.
    :param bounds: pydantic's constraints (``ge``, ``max_length``, ``pattern``, ``examples``, …).
    """
    extra: dict[str, JsonValue] = {"unit": unit, "form": form}
    if labels:
        extra["values_display"] = dict(labels)  # Airflow's word for it
    if "default_factory" in bounds:
        return Field(description=description, json_schema_extra=extra, **bounds)
    return Field(default, description=description, json_schema_extra=extra, **bounds)
