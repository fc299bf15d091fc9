"""Copy many files at once, a few at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

from airsmith.artifacts.publish import ArtifactWriter
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.hub import RepoType
from airsmith.recipe.sources import source_kind
from airsmith_stages.mirroring.source import SourceFile, refuse_changed_store, store_files

log = logging.getLogger("airsmith")

FILES_AT_ONCE = 4


def list_files(repo_type: RepoType, source_id: str, revision: str) -> list[SourceFile]:
    """The files of a source, wherever it lies.

    :param revision: the commit, or the listing digest of a store's folder.
    """
    if source_kind(source_id) == "store":
        return store_files(source_id, revision)
    from airsmith_stages.mirroring.hub_source import hub_files

    return hub_files(repo_type, source_id, revision)


def copy_files(files: Iterable[SourceFile], output: ArtifactWriter) -> int:
    """Copy files into an artifact; the first failure ends them all.

    :returns: the bytes copied.
    """
    stop = Event()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        copies = [pool.submit(file.copy_to, output, stop) for file in files]
        try:
            size_bytes = sum(copy.result().size_bytes for copy in as_completed(copies))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    log.info("Copied %d files, %.1f MiB", len(copies), size_bytes / 2**20)
    return size_bytes


def refuse_nothing(files: list[SourceFile], source_id: str) -> None:
    """Refuse a source without files.

    :raises AirsmithError: `bad_data`.
    """
    if not files:
        raise AirsmithError(
            ErrorKind.BAD_DATA, f"{source_id} holds no files to copy.", "Check the id and the revision."
        )


def refuse_changed(source_id: str, revision: str) -> None:
    """Refuse a copy whose source was written to meanwhile; a commit of the Hub never changes.

    :raises AirsmithError: `bad_data`.
    """
    if source_kind(source_id) == "store":
        refuse_changed_store(source_id, revision)
