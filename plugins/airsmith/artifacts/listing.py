"""What a folder of any store holds now, as one digest: a store URI's counterpart of a commit."""

from __future__ import annotations

import hashlib

from airsmith.artifacts.store import ObjectInfo, Store
from airsmith.errors import AirsmithError, ErrorKind


def list_source(uri: str) -> list[ObjectInfo]:
    """The objects of a source folder, by path.

    :raises AirsmithError: `not_found` where there are none.
    """
    objects = sorted(Store.open(uri).list(""), key=lambda info: info.path)
    if not objects:
        raise AirsmithError(ErrorKind.NOT_FOUND, f"There are no files at {uri}.", "Check the URI in the recipe.")
    return objects


def listing_digest(uri: str) -> str:
    """Digest of the names, sizes and times of a folder's files: it changes whenever somebody changes the folder.

    :raises AirsmithError: `not_found` where the folder is empty.
    """
    lines = (f"{info.path}\0{info.size_bytes}\0{info.modified.isoformat()}\n" for info in list_source(uri))
    return "listing-" + hashlib.sha256("".join(lines).encode()).hexdigest()
