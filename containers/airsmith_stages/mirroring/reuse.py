"""What of a source the store has already: whole files of attempts that were broken off, and of the commit before.

Only what a hash has proven is taken. An object of an attempt is complete only once its content had the hash that its
source announced (`ArtifactWriter.add_stream`), and the attempts of one artifact copy one commit.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

from airsmith.artifacts.layout import ATTEMPT_PREFIX, newest_mirror_path
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError
from airsmith_stages.mirroring.source import Source
from airsmith_stages.mirroring.source_file import SourceFile

log = logging.getLogger("airsmith")


@dataclass(frozen=True)
class ReusableFiles:
    """Content that need not be fetched.

    :param paths: objects by the names of the files that they are the content of.
    :param attempts: objects of attempts that were broken off.
    """

    paths: dict[str, str] = field(default_factory=dict)
    attempts: tuple[str, ...] = ()


def find_reusable(source: Source, files: list[SourceFile], output: ArtifactWriter) -> ReusableFiles:
    """Look for the files of a source in the store that they are to be copied to."""
    if source.is_store:
        return ReusableFiles()
    paths = _of_newest_mirror(source, files, output.store)
    wanted = {(file.name, file.size_bytes) for file in files if file.sha256}
    begin = f"{output.folder}/{ATTEMPT_PREFIX}"
    attempts = [info for info in output.store.list(output.folder) if info.path.startswith(begin)]
    for info in attempts:
        name = info.path.removeprefix(begin).partition("/")[2]
        if (name, info.size_bytes) in wanted:
            paths[name] = info.path
    return ReusableFiles(paths, tuple(info.path for info in attempts))


def record_newest_mirror(source: Source, artifact: Artifact) -> None:
    """Note where the source's newest commit lies now; who mirrors the next one looks there."""
    if not source.is_store:
        note = json.dumps({"artifact": artifact.folder, "revision": source.revision})
        artifact.store.write(newest_mirror_path(source.repo_type, source.id), note.encode())


def delete_abandoned_attempts(known: ReusableFiles, artifact: Artifact, output: ArtifactWriter) -> None:
    """Remove the broken-off attempts, once the artifact that took their place is published.

    Where another has published, they may be its own. One that is at work still finds the artifact, and uses that.
    """
    if artifact.manifest.content_root == output.content_root:
        for path in known.attempts:
            output.store.delete(path)


def _of_newest_mirror(source: Source, files: list[SourceFile], store: Store) -> dict[str, str]:
    """Objects of the newest mirror that have a file's sha256; for files without one, those of its name and size."""
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
    """The artifact of the commit that was mirrored last; None where there is none, or it is not whole any more."""
    found = store.find(newest_mirror_path(source.repo_type, source.id))
    if found is None:
        return None
    try:
        return open_artifact(store, str(json.loads(found[0])["artifact"]))
    except (AirsmithError, ValueError, KeyError, TypeError) as failure:
        log.info("The last mirror of %s cannot be used: %s", source.id, failure)
        return None
