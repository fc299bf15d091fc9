"""Validation of a mapping against a model, with messages that use the author's keys and file locations."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe

Place = Callable[[str], str]
"""Returns the location of a dotted key, for example `dags/recipes/x.yaml:12`."""

_Model = TypeVar("_Model", bound=BaseModel)


def validate_recipe(content: Mapping[str, Any], place: Place) -> Recipe:
    """Validate a recipe.

    :raises AirsmithError: `bad_recipe`, one line per mistake.
    """
    return validate(Recipe, content, place, what="recipe key")


def validate(model: type[_Model], content: Mapping[str, Any], place: Place, *, what: str) -> _Model:
    """Validate a mapping against a model.

    :param what: the term for a key of this model in messages.
    :raises AirsmithError: `bad_recipe`, one line per mistake.
    """
    try:
        return model.model_validate(content)
    except ValidationError as failure:
        mistakes = [_sentence(model, error, place, what) for error in failure.errors(include_url=False)]
        raise AirsmithError(ErrorKind.BAD_RECIPE, "\n".join(dict.fromkeys(mistakes))) from None


def valid_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a model, groups included."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        group = group_model(field.annotation)
        if group is not None:
            keys += valid_keys(group, f"{prefix}{group_key(name, field.annotation)}.")
    return keys


def group_key(name: str, annotation: Any) -> str:
    """Prefix of the keys of a group, with a placeholder `<name>` for a mapping of groups."""
    return f"{name}.<name>" if get_origin(annotation) is dict else name


def group_model(annotation: Any) -> type[BaseModel] | None:
    """The model of a field that is a group or an optional group; None for other fields."""
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    models = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
    return models[0] if models else None


def _sentence(model: type[BaseModel], error: ErrorDetails, place: Place, what: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    return f"{place(key)}: {_mistake(model, error, key, what)}"


def _mistake(model: type[BaseModel], error: ErrorDetails, key: str, what: str) -> str:
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"{key} is not a {what}; {_advice(model, key)}"
    if kind == "missing":
        return f"{key} is missing; it is required"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "string_pattern_mismatch":
        return f"{key} is {value!r}, but must match {error['ctx']['pattern']}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{key} is {value!r}, but must be a group of keys"
    rule = error["msg"].replace("Input should be ", "must be ").replace("Input should have ", "must have ")
    return f"{key} is {value!r}, but {rule.split(', unable to parse')[0]}"


def _advice(model: type[BaseModel], key: str) -> str:
    known = valid_keys(model)
    group, _, name = key.rpartition(".")
    siblings = [valid.rpartition(".")[2] for valid in known if valid.rpartition(".")[0] == group]
    elsewhere = {valid.rpartition(".")[2]: valid for valid in reversed(known)}
    if name in elsewhere:
        return f"did you mean {elsewhere[name]}?"
    for sibling in difflib.get_close_matches(name, siblings, 1, 0.6):
        return f"did you mean {group}{'.' if group else ''}{sibling}?"
    for other in difflib.get_close_matches(name, elsewhere, 1, 0.7):
        return f"did you mean {elsewhere[other]}?"
    return f"valid keys are {', '.join(siblings)}"
