"""Delete garbage from a store, so that neither a crash nor a concurrent run leaves or finds an incomplete artifact."""

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
from airsmith.janitor.runs import MAX_CONCURRENT_REQUESTS

log = logging.getLogger("airsmith")

POINTER_GRACE_SECONDS = 5.0
"""Time for a stage that has just found an artifact to write its pointer to it."""


def delete_unfinished(store: Store, garbage: Sequence[Garbage]) -> list[Garbage]:
    """Delete unpublished content, unless it has been published since it was found.

    :returns: the deleted garbage.
    """
    deleted = []
    for found in garbage:
        if published_content(store, found.folder) in (found.name, found.folder):
            log.info("Keeping %s: it has been published since.", found.name)
            continue
        _delete(store, found.paths)
        deleted.append(found)
    return deleted


def abort_uploads(uploads: Uploads, garbage: Sequence[Garbage]) -> list[Garbage]:
    """Abort uploads; an upload that has been completed since is ignored.

    :returns: the aborted uploads.
    """
    for found in garbage:
        assert found.upload is not None
        uploads.abort(found.upload)
    return list(garbage)


def delete_published(
    store: Store, garbage: Sequence[Garbage], read_references: Callable[[], References]
) -> list[Garbage]:
    """Delete artifacts and checkpoints, all manifests first, so that no reader takes the remaining files for complete.

    A concurrent run that found an artifact complete before that writes its pointer soon after: the artifact's manifest
    is then restored, and the artifact stays.

    :param read_references: reads the current references.
    :returns: the deleted garbage.
    """
    needed = read_references() if garbage else References()
    candidates = [found for found in garbage if not needed.contain(found.folder)]
    if not candidates:
        return []
    manifests = {found.folder: store.find(found.manifest) for found in candidates}
    try:
        _delete(store, [found.manifest for found in candidates])
        time.sleep(POINTER_GRACE_SECONDS)
        needed = read_references()
    except BaseException:  # Without references, everything must stay.
        _restore(store, manifests)
        raise
    _restore(store, {folder: manifest for folder, manifest in manifests.items() if needed.contain(folder)})
    deleted = [found for found in candidates if not needed.contain(found.folder)]
    _delete(store, [path for found in deleted for path in found.paths if path != found.manifest])
    return deleted


def _restore(store: Store, manifests: Mapping[str, tuple[bytes, Version] | None]) -> None:
    for folder, manifest in manifests.items():
        if manifest is not None and store.create(f"{folder}/{MANIFEST}", manifest[0]):
            log.info("Keeping %s: it has been referenced since.", folder)


def _delete(store: Store, paths: Iterable[str]) -> None:
    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as pool:
        for _ in pool.map(store.delete, paths):
            pass
