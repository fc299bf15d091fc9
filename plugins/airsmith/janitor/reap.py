"""Remove garbage from a store, so that neither a crash half-way nor a run that starts meanwhile finds half a thing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from airsmith.artifacts.layout import MANIFEST
from airsmith.artifacts.store import Store, Version
from airsmith.artifacts.uploads import Uploads
from airsmith.janitor.garbage import Garbage, published_content
from airsmith.janitor.references import References
from airsmith.janitor.runs import REQUESTS_AT_ONCE

log = logging.getLogger("airsmith")

SETTLING_SECONDS = 5.0
"""Time in which a stage that has just found an artifact writes its pointer to it."""


def remove_unfinished(store: Store, garbage: Sequence[Garbage]) -> list[Garbage]:
    """Remove content that was never published; what has been published meanwhile stays.

    :returns: what was removed.
    """
    removed = []
    for found in garbage:
        if published_content(store, found.folder) in (found.name, found.folder):
            log.info("%s was published meanwhile: it stays.", found.name)
            continue
        _delete(store, found.paths)
        removed.append(found)
    return removed


def abort_uploads(uploads: Uploads, garbage: Sequence[Garbage]) -> list[Garbage]:
    """Abort uploads; one that has ended meanwhile is no error.

    :returns: what was aborted.
    """
    for found in garbage:
        assert found.upload is not None
        uploads.abort(found.upload)
    return list(garbage)


def remove_published(store: Store, garbage: Sequence[Garbage], look_again: Callable[[], References]) -> list[Garbage]:
    """Remove artifacts and checkpoints: all manifests first, so that no reader takes the rest for whole.

    Whoever found one whole before that has pointed to it soon after: such a one gets its manifest back, and stays.

    :param look_again: what is pointed to now.
    :returns: what was removed.
    """
    needed = look_again() if garbage else References()
    doomed = [found for found in garbage if not needed.hold(found.folder)]
    if not doomed:
        return []
    manifests = {found.folder: store.find(found.manifest) for found in doomed}
    try:
        _delete(store, [found.manifest for found in doomed])
        time.sleep(SETTLING_SECONDS)
        needed = look_again()
    except BaseException:  # Nobody knows now what is needed.
        _restore(store, manifests)
        raise
    _restore(store, {folder: manifest for folder, manifest in manifests.items() if needed.hold(folder)})
    removed = [found for found in doomed if not needed.hold(found.folder)]
    _delete(store, [path for found in removed for path in found.paths if path != found.manifest])
    return removed


def _restore(store: Store, manifests: Mapping[str, tuple[bytes, Version] | None]) -> None:
    for folder, manifest in manifests.items():
        if manifest is not None and store.create(f"{folder}/{MANIFEST}", manifest[0]):
            log.info("%s is wanted again: it stays.", folder)


def _delete(store: Store, paths: Iterable[str]) -> None:
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for _ in pool.map(store.delete, paths):
            pass
