"""The registry's records in the store, and the one loop that updates a record by compare-and-swap."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from airsmith.artifacts.store import Store, Version
from airsmith.errors import AirsmithError, ErrorKind

_Record = TypeVar("_Record", bound=BaseModel)

MAX_ATTEMPTS = 100
_MAX_PAUSE_SECONDS = 0.2


def read_record(store: Store, path: str, model: type[_Record]) -> tuple[_Record, Version] | None:
    """A record and the store's version of it, which a swap compares; None if the record does not exist.

    :raises AirsmithError: `verification_failed` if the record is damaged.
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
            f"{store.uri}/{path} is not a valid {model.__name__} of this version of Airsmith: "
            f"{error.errors()[0]['msg']}.",
            "Use the version of Airsmith that wrote it, or restore the file if it is damaged.",
        ) from error


def update_record(
    store: Store, path: str, model: type[_Record], successor: Callable[[_Record | None], _Record]
) -> _Record:
    """Replace a record by its successor; after a concurrent update, compute the successor again.

    :raises AirsmithError: `store_unavailable` after `MAX_ATTEMPTS` concurrent updates.
    """
    for _ in range(MAX_ATTEMPTS):
        found = read_record(store, path, model)
        before, version = found if found is not None else (None, None)
        record = successor(before)
        if store.compare_and_swap(path, record.model_dump_json(indent=2).encode(), version):
            return record
        back_off()
    raise contention_error(store, path)


def back_off() -> None:
    """Pause for a random time after a lost race, so that concurrent writers do not stay in step."""
    time.sleep(random.uniform(0, _MAX_PAUSE_SECONDS))


def contention_error(store: Store, path: str) -> AirsmithError:
    """The error after `MAX_ATTEMPTS` lost races."""
    return AirsmithError(
        ErrorKind.STORE_UNAVAILABLE,
        f"Another writer changed {store.uri}/{path} in each of {MAX_ATTEMPTS} attempts.",
        "Run again; if the error persists, the store does not support conditional puts (If-Match, If-None-Match).",
    )
