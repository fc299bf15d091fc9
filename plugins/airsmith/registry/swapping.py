"""The one loop that changes a pointer by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from airsmith.artifacts.store import Store, Version
from airsmith.contracts.errors import AirsmithError, ErrorKind

_Record = TypeVar("_Record", bound=BaseModel)


def read_record(store: Store, path: str, model: type[_Record]) -> tuple[_Record, Version] | None:
    """A record and what a swap must find unchanged, or None where there is no record yet."""
    try:
        data, version = store.read_versioned(path)
    except AirsmithError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            return None
        raise
    return model.model_validate_json(data), version


def change_record(
    store: Store, path: str, model: type[_Record], successor: Callable[[_Record | None], _Record]
) -> _Record:
    """Replace a record by its successor, as often as somebody else is faster."""
    while True:
        found = read_record(store, path, model)
        before, version = found if found is not None else (None, None)
        record = successor(before)
        if store.swap(path, record.model_dump_json(indent=2).encode(), version):
            return record
