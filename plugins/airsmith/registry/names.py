"""Valid names of models and endpoints."""

from __future__ import annotations

import re

from airsmith.errors import AirsmithError, ErrorKind

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: str) -> str:
    """The name, if it is valid.

    :raises AirsmithError: `bad_recipe` if it is not.
    """
    if not _NAME.fullmatch(name):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{name[:100]!r} is not a valid name of a model or an endpoint.",
            "Use up to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.",
        )
    return name


def base_model_name(endpoint: str) -> str:
    """The model name that selects the base model of an endpoint that serves adapters."""
    return f"{endpoint}-base"
