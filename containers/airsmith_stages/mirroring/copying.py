"""Copy a source into an artifact: a few large files at a time, each in parallel ranges, and small files alongside."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

from airsmith.artifacts.bucket import MIN_PART_BYTES
from airsmith.artifacts.manifest import FileEntry
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.contracts.cache import Output
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.memory import use_one_malloc_arena
from airsmith_stages.mirroring.reuse import (
    ReusableFiles,
    delete_abandoned_attempts,
    find_reusable,
    record_newest_mirror,
)
from airsmith_stages.mirroring.source import Source
from airsmith_stages.mirroring.source_file import SourceFile
from airsmith_stages.stage_context import StageContext

log = logging.getLogger("airsmith")

LARGE_BYTES = MIN_PART_BYTES
MAX_LARGE_COPIES = 3
"""Low, because the upload of a large file holds several parts in memory."""
MAX_SMALL_COPIES = 6

_TRANSIENT_KINDS = (ErrorKind.HUB_UNAVAILABLE, ErrorKind.STORE_UNAVAILABLE, ErrorKind.INTERRUPTED)


def publish_copy(
    source: Source,
    files: list[SourceFile],
    context: StageContext,
    properties: Callable[[ArtifactWriter], Mapping[str, str]] = lambda output: {},
) -> Output:
    """Copy files of a source and publish them as the stage's output.

    :param files: the files to copy.
    :param properties: computes the artifact's properties after all files are written.
    :raises AirsmithError: `bad_data` if the source has no files or changes during the copy.
    """
    _refuse_empty(source, files)
    use_one_malloc_arena()
    with context.write_output() as output:
        known = find_reusable(source, files, output)
        size_bytes = copy_files(files, known, output)
        source.refuse_changed()
        artifact = output.publish(metrics={"size_bytes": size_bytes}, properties=properties(output))
        record_newest_mirror(source, artifact)
        delete_abandoned_attempts(known, artifact, output)
        return Output.of_artifact(artifact)


def copy_files(files: list[SourceFile], known: ReusableFiles, output: ArtifactWriter) -> int:
    """Copy files into an artifact; the first failure stops all copies.

    After a transient failure, complete files are kept for the next attempt.

    :returns: total size in bytes.
    """
    stop = Event()
    with ThreadPoolExecutor(MAX_LARGE_COPIES) as large, ThreadPoolExecutor(MAX_SMALL_COPIES) as small:
        copies = [
            (large if file.size_bytes > LARGE_BYTES else small).submit(_copy, file, known, output, stop)
            for file in sorted(files, key=lambda file: file.size_bytes, reverse=True)
        ]
        try:
            size_bytes = sum(copy.result().size_bytes for copy in as_completed(copies))
        except BaseException as failure:
            output.keep_partial = _is_transient(failure) and any(
                file.sha256 and file.name in output.files for file in files
            )
            stop.set()
            for pool in (large, small):
                pool.shutdown(wait=False, cancel_futures=True)
            raise
    in_store = [file.size_bytes for file in files if file.name in known.paths]
    log.info(
        "Copied %d files (%.1f MiB); reused %d of them (%.1f MiB) from the store",
        len(files), size_bytes / 2**20, len(in_store), sum(in_store) / 2**20,
    )  # fmt: skip
    return size_bytes


def _copy(file: SourceFile, known: ReusableFiles, output: ArtifactWriter, stop: Event) -> FileEntry:
    path = known.paths.get(file.name)
    if path is not None:
        try:
            return file.copy_from_store(path, output, stop)
        except AirsmithError as failure:
            if failure.kind not in (ErrorKind.NOT_FOUND, ErrorKind.VERIFICATION_FAILED):
                raise
            log.info("Downloading %s because its stored copy is not usable: %s", file.name, failure.message)
    started_at = time.monotonic()
    entry = file.copy_to(output, stop)
    if file.size_bytes > LARGE_BYTES:
        seconds = time.monotonic() - started_at
        mebibytes = file.size_bytes / 2**20
        log.info("%s: %.0f MiB in %.1f s, %.0f MiB/s", file.name, mebibytes, seconds, mebibytes / seconds)
    return entry


def _is_transient(failure: BaseException) -> bool:
    """Whether a new attempt can succeed: network and store errors, and interruptions of this process."""
    return (
        failure.kind in _TRANSIENT_KINDS if isinstance(failure, AirsmithError) else not isinstance(failure, Exception)
    )


def _refuse_empty(source: Source, files: list[SourceFile]) -> None:
    if not files:
        raise AirsmithError(ErrorKind.BAD_DATA, f"{source.id} has no files to copy.", "Check the id and the revision.")
