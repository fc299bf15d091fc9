"""Publish an artifact: first the content, in a folder that no reader opens, then the manifest, by a conditional put."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from airsmith.artifacts.layout import ATTEMPT_PREFIX, MANIFEST, checked_path
from airsmith.artifacts.manifest import FileEntry, Manifest, Metric, check_name_conflicts
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import STREAM_CHUNK_BYTES, Piece, Store
from airsmith.artifacts.uploads import copy_object
from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")


@dataclass
class ArtifactWriter:
    """An artifact that is being written. Invisible until `publish`. Several threads may add files.

    :ivar keep_partial: if the artifact is not published, keep its complete files for the next attempt.
    """

    store: Store
    folder: str
    type: str
    digest: str
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    content_root: str = field(default_factory=lambda: f"{ATTEMPT_PREFIX}{uuid.uuid4()}")
    files: dict[str, FileEntry] = field(default_factory=dict)
    published: bool = False
    keep_partial: bool = False
    _discarded: bool = field(default=False, repr=False)
    _names: set[str] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_stream(
        self, name: str, chunks: Iterable[Piece], size_bytes: int | None = None, expected_sha256: str | None = None
    ) -> FileEntry:
        """Add a file from pieces, hashed while they are uploaded.

        :param expected_sha256: hash of the content; a different hash aborts the upload before the object exists.
        :raises AirsmithError: `verification_failed` if the hash, the size or the name is invalid.
        """
        sha256 = hashlib.sha256()

        def hashed() -> Iterator[Piece]:
            total_bytes = 0
            for chunk in chunks:
                sha256.update(chunk)
                total_bytes += len(chunk)
                yield chunk
            if size_bytes is not None and total_bytes != size_bytes:
                raise _mismatch(name, f"has {total_bytes} bytes, not the expected {size_bytes}")
            if expected_sha256 is not None and sha256.hexdigest() != expected_sha256:
                raise _mismatch(name, f"has sha256 {sha256.hexdigest()}, not the expected {expected_sha256}")

        with self._reserved(name) as path:
            written = self.store.upload(path, hashed(), size_bytes)
            return self._written(FileEntry(name=name, size_bytes=written, sha256=sha256.hexdigest()), path)

    def add_file(self, name: str, local: Path) -> FileEntry:
        """Add a local file."""
        with local.open("rb") as file:
            return self.add_stream(name, iter(lambda: file.read(STREAM_CHUNK_BYTES), b""), local.stat().st_size)

    def add_copy(self, name: str, source: str, size_bytes: int, sha256: str) -> FileEntry:
        """Add a copy of a file that already exists in the store, without downloading it.

        :param source: path of an object that is known to have this size and hash.
        :raises AirsmithError: `not_found` if the object no longer exists.
        """
        with self._reserved(name) as path:
            copy_object(self.store, source, path, size_bytes)
            return self._written(FileEntry(name=name, size_bytes=size_bytes, sha256=sha256), path)

    def add_bytes(self, name: str, data: bytes) -> FileEntry:
        """Add a file with the given content."""
        return self.add_stream(name, [data], len(data))

    def add_folder(self, local: Path, prefix: str = "") -> list[FileEntry]:
        """Add every file under a local folder."""
        files = sorted(path for path in local.rglob("*") if path.is_file())
        return [self.add_file(f"{prefix}{path.relative_to(local).as_posix()}", path) for path in files]

    def publish(
        self, *, metrics: Mapping[str, Metric] | None = None, properties: Mapping[str, str] | None = None
    ) -> Artifact:
        """Publish the artifact. If another attempt published first, use its artifact and discard this one.

        :raises AirsmithError: `verification_failed` if the store does not contain what was written.
        """
        manifest = Manifest(
            type=self.type,
            digest=self.digest,
            content_root=self.content_root,
            files=tuple(self.files[name] for name in sorted(self.files)),
            inputs=dict(self.inputs),
            properties=dict(properties or {}),
            versions=dict(self.versions),
            metrics=dict(metrics or {}),
            created_at=datetime.now(timezone.utc),
        )
        artifact = Artifact(self.store, self.folder, manifest)
        try:
            artifact.verify_sizes()
        except AirsmithError:
            # After another attempt has published, its files may have been removed by that attempt.
            if not self.store.exists(f"{self.folder}/{MANIFEST}"):
                raise
            return self._use_published()
        if self.store.create(f"{self.folder}/{MANIFEST}", manifest.model_dump_json(indent=2).encode()):
            self.published = True
            return artifact
        return self._use_published()

    def discard(self) -> None:
        """Delete the written files as far as possible; the janitor deletes the rest."""
        self._discarded = True
        with contextlib.suppress(AirsmithError):
            for info in list(self.store.list(f"{self.folder}/{self.content_root}")):
                self.store.delete(info.path)

    def _use_published(self) -> Artifact:
        winner = open_artifact(self.store, self.folder)
        if winner is None:
            raise AirsmithError(
                ErrorKind.STORE_UNAVAILABLE,
                f"The store {self.store.uri} reports that {self.folder}/{MANIFEST} exists, but cannot read it.",
                "Run again; if the error persists, the store does not support conditional puts.",
            )
        if winner.manifest.content_root == self.content_root:
            # The response to the put was lost, and the retry found the object of the first attempt.
            self.published = True
            return winner
        log.info("Another attempt published %s first; using its artifact.", self.folder)
        self.discard()
        self.published = True
        return winner

    def _written(self, entry: FileEntry, path: str) -> FileEntry:
        if self._discarded:  # by another thread, whose listing may lack this file
            self.store.delete(path)
            raise AirsmithError(
                ErrorKind.INTERRUPTED, f"The artifact was discarded while {entry.name} was uploaded.", "Run again."
            )
        self.files[entry.name] = entry
        return entry

    @contextmanager
    def _reserved(self, name: str) -> Iterator[str]:
        """Reserve a name; release it if adding the file fails, so that the caller can retry.

        :returns: path of the file in the store.
        """
        with self._lock:
            try:
                checked_path(name)
                check_name_conflicts([*self._names, name])
            except ValueError as error:
                hint = "Rename the file at its source."
                raise AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{error}.", hint) from error
            self._names.add(name)
        try:
            yield f"{self.folder}/{self.content_root}/{name}"
        except BaseException:
            self._names.discard(name)
            raise


@contextmanager
def write_artifact(
    store: Store, folder: str, *, type: str, digest: str, inputs: Mapping[str, str], versions: Mapping[str, str]
) -> Iterator[ArtifactWriter]:
    """Write an artifact. If the block exits without `publish`, the files are deleted, unless `keep_partial` is set."""
    writer = ArtifactWriter(store, folder, type, digest, inputs, versions)
    try:
        yield writer
    finally:
        if not (writer.published or writer.keep_partial):
            writer.discard()


def _mismatch(name: str, what: str) -> AirsmithError:
    return AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{name} {what}.", "Nothing was published. Run again.")
