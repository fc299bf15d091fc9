"""Find files of a source that the store already has: from interrupted attempts and from the last mirrored commit.

Only files verified by hash are reused. An attempt's object exists only after its content matched the hash that the
source announced (`ArtifactWriter.add_stream`), and all attempts of an artifact copy the same commit.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

from airsmith.artifacts.layout import ATTEMPT_PREFIX, newest_mirror_path
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError
from airsmith_stages.mirroring.source import Source
from airsmith_stages.mirroring.source_file import SourceFile

log = logging.getLogger("airsmith")


@dataclass(frozen=True)
class ReusableFiles:
    """Files that need no download.

    :param paths: object with the file's content, by file name.
    :param attempts: objects of interrupted attempts.
    """

    paths: dict[str, str] = field(default_factory=dict)
    attempts: tuple[str, ...] = ()


def find_reusable(source: Source, files: list[SourceFile], output: ArtifactWriter) -> ReusableFiles:
    """Find files of a source in the destination store."""
    if source.is_store:
        return ReusableFiles()
    paths = _files_of_newest_mirror(source, files, output.store)
    wanted = {(file.name, file.size_bytes) for file in files if file.sha256}
    begin = f"{output.folder}/{ATTEMPT_PREFIX}"
    attempts = [info for info in output.store.list(output.folder) if info.path.startswith(begin)]
    for info in attempts:
        name = info.path.removeprefix(begin).partition("/")[2]
        if (name, info.size_bytes) in wanted:
            paths[name] = info.path
    return ReusableFiles(paths, tuple(info.path for info in attempts))


def record_newest_mirror(source: Source, artifact: Artifact) -> None:
    """Record the artifact of the source's newest commit, from which the next mirror reuses unchanged files."""
    if not source.is_store:
        record = json.dumps({"artifact": artifact.folder, "revision": source.revision})
        artifact.store.write(newest_mirror_path(source.repo_type, source.id), record.encode())


def delete_abandoned_attempts(known: ReusableFiles, artifact: Artifact, output: ArtifactWriter) -> None:
    """Delete interrupted attempts after this attempt has published the artifact.

    If another attempt has published it, the objects may be its own. An attempt that is still running finds the
    published artifact and uses it.
    """
    if artifact.manifest.content_root == output.content_root:
        for path in known.attempts:
            output.store.delete(path)


def _files_of_newest_mirror(source: Source, files: list[SourceFile], store: Store) -> dict[str, str]:
    """Objects of the newest mirror by file: with the same sha256, or for files without one, the same name and size."""
    artifact = _newest_mirror(source, store)
    if artifact is None:
        return {}
    by_sha256 = {entry.sha256: artifact.path(entry.name) for entry in artifact.manifest.files}
    by_size = {(entry.name, entry.size_bytes): artifact.path(entry.name) for entry in artifact.manifest.files}
    found = {
        file.name: by_sha256.get(file.sha256) if file.sha256 else by_size.get((file.name, file.size_bytes))
        for file in files
    }
    return {name: path for name, path in found.items() if path is not None}


def _newest_mirror(source: Source, store: Store) -> Artifact | None:
    """The artifact of the last mirrored commit; None if it does not exist or is incomplete."""
    found = store.find(newest_mirror_path(source.repo_type, source.id))
    if found is None:
        return None
    try:
        return open_artifact(store, str(json.loads(found[0])["artifact"]))
    except (AirsmithError, ValueError, KeyError, TypeError) as failure:
        log.info("Cannot reuse the last mirror of %s: %s", source.id, failure)
        return None
