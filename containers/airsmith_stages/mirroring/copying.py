"""Copy many files at once, a few at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from airsmith.artifacts.publish import ArtifactWriter
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.hub import RepoType
from airsmith.recipe.sources import source_kind
from airsmith_stages.mirroring.source import SourceFile, store_files

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
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        copies = [pool.submit(file.copy_to, output) for file in files]
        try:
            sizes = [copy.result().size_bytes for copy in copies]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    log.info("Copied %d files, %.1f MiB", len(sizes), sum(sizes) / 2**20)
    return sum(sizes)


def refuse_nothing(files: list[SourceFile], source_id: str) -> None:
    """Refuse a source without files.

    :raises AirsmithError: `bad_data`.
    """
    if not files:
        raise AirsmithError(
            ErrorKind.BAD_DATA, f"{source_id} holds no files to copy.", "Check the id and the revision."
        )
