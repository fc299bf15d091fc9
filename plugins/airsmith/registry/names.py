"""What may name a model or an endpoint."""

from __future__ import annotations

import re

from airsmith.errors import AirsmithError, ErrorKind

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def checked_name(name: str) -> str:
    """The name, where it is one.

    :raises AirsmithError: `bad_recipe` where it is not.
    """
    if not _NAME.fullmatch(name):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{name[:100]!r} cannot name a model or an endpoint.",
            "Use up to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.",
        )
    return name


def base_model_name(endpoint: str) -> str:
    """What requests name to be answered by the base that an endpoint serves its adapters on."""
    return f"{endpoint}-base"
