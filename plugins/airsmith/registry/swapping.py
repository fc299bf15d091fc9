"""The registry's records in the store, and the one loop that changes one of them by compare-and-swap."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from airsmith.artifacts.store import Store, Version
from airsmith.errors import AirsmithError, ErrorKind

_Record = TypeVar("_Record", bound=BaseModel)

MOST_TRIES = 100
_LONGEST_PAUSE_SECONDS = 0.2


def read_record(store: Store, path: str, model: type[_Record]) -> tuple[_Record, Version] | None:
    """A record and what a swap must find unchanged, or None where there is no record yet.

    :raises AirsmithError: `verification_failed` where the record is damaged.
    """
    found = store.find(path)
    if found is None:
        return None
    data, version = found
    try:
        return model.model_validate_json(data), version
    except ValidationError as error:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{store.uri}/{path} is no {model.__name__} of this version of Airsmith: {error.errors()[0]['msg']}.",
            "Use the version that wrote it; or, if it is damaged, restore the file.",
        ) from error


def change_record(
    store: Store, path: str, model: type[_Record], successor: Callable[[_Record | None], _Record]
) -> _Record:
    """Replace a record by its successor, as often as somebody else is faster.

    :raises AirsmithError: `store_unavailable` where that never ends.
    """
    for _ in range(MOST_TRIES):
        found = read_record(store, path, model)
        before, version = found if found is not None else (None, None)
        record = successor(before)
        if store.swap(path, record.model_dump_json(indent=2).encode(), version):
            return record
        give_way()
    raise never_won(store, path)


def give_way() -> None:
    """Pause after a lost race, so that racers do not go on in step."""
    time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))


def never_won(store: Store, path: str) -> AirsmithError:
    """What to raise when somebody else was faster every time."""
    return AirsmithError(
        ErrorKind.STORE_UNAVAILABLE,
        f"{store.uri}/{path} was changed by somebody else in each of {MOST_TRIES} tries.",
        "Run again; if it stays so, the store does not honour conditional puts (If-Match, If-None-Match).",
    )
