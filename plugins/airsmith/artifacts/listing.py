"""A digest of a source folder's listing: for a store URI what a commit is for a Hub repository."""

from __future__ import annotations

import hashlib

from airsmith.artifacts.store import ObjectInfo, Store
from airsmith.errors import AirsmithError, ErrorKind


def list_source(uri: str) -> list[ObjectInfo]:
    """The objects of a source folder, sorted by path.

    :raises AirsmithError: `not_found` if the folder is empty.
    """
    objects = sorted(Store.open(uri).list(""), key=lambda info: info.path)
    if not objects:
        raise AirsmithError(ErrorKind.NOT_FOUND, f"{uri} contains no files.", "Check the URI in the recipe.")
    return objects


def listing_digest(uri: str) -> str:
    """Digest of the names, sizes and modification times of a folder's files; changes whenever the folder changes.

    :raises AirsmithError: `not_found` if the folder is empty.
    """
    lines = (f"{info.path}\0{info.size_bytes}\0{info.modified.isoformat()}\n" for info in list_source(uri))
    return "listing-" + hashlib.sha256("".join(lines).encode()).hexdigest()
