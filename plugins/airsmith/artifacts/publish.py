"""Publish an artifact: content first, under a name that no reader looks at, then the manifest, put only if absent."""

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
from airsmith.artifacts.manifest import FileEntry, Manifest, Metric, refuse_clashes
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import STREAM_CHUNK_BYTES, Piece, Store
from airsmith.artifacts.uploads import copy_object
from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")


@dataclass
class ArtifactWriter:
    """An artifact being made. Nothing of it is seen before `publish`. Files may be added from several threads.

    :ivar kept: where it is not published, what is whole of it stays for another attempt at the same artifact.
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
    kept: bool = False
    _discarded: bool = field(default=False, repr=False)
    _names: set[str] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_stream(
        self, name: str, chunks: Iterable[Piece], size_bytes: int | None = None, expected_sha256: str | None = None
    ) -> FileEntry:
        """Add a file from pieces, hashed while they pass.

        :param expected_sha256: what the content must hash to; anything else ends the upload before the object exists.
        :raises AirsmithError: `verification_failed` for a wrong hash, a wrong size or a name that is no plain path.
        """
        sha256 = hashlib.sha256()

        def hashed() -> Iterator[Piece]:
            passed = 0
            for chunk in chunks:
                sha256.update(chunk)
                passed += len(chunk)
                yield chunk
            if size_bytes is not None and passed != size_bytes:
                raise _wrong(name, f"has {passed} bytes, not the expected {size_bytes}")
            if expected_sha256 is not None and sha256.hexdigest() != expected_sha256:
                raise _wrong(name, f"has sha256 {sha256.hexdigest()}, not the expected {expected_sha256}")

        with self._reserved(name) as path:
            written = self.store.upload(path, hashed(), size_bytes)
            return self._written(FileEntry(name=name, size_bytes=written, sha256=sha256.hexdigest()), path)

    def add_file(self, name: str, local: Path) -> FileEntry:
        """Add a local file."""
        with local.open("rb") as file:
            return self.add_stream(name, iter(lambda: file.read(STREAM_CHUNK_BYTES), b""), local.stat().st_size)

    def add_copy(self, name: str, source: str, size_bytes: int, sha256: str) -> FileEntry:
        """Add a file that lies in the store already, without its bytes passing here.

        :param source: its path, of an object that is known to have this size and hash.
        :raises AirsmithError: `not_found` where there is no such object any more.
        """
        with self._reserved(name) as path:
            copy_object(self.store, source, path, size_bytes)
            return self._written(FileEntry(name=name, size_bytes=size_bytes, sha256=sha256), path)

    def add_bytes(self, name: str, data: bytes) -> FileEntry:
        """Add a file from memory."""
        return self.add_stream(name, [data], len(data))

    def add_folder(self, local: Path, prefix: str = "") -> list[FileEntry]:
        """Add every file under a local folder."""
        files = sorted(path for path in local.rglob("*") if path.is_file())
        return [self.add_file(f"{prefix}{path.relative_to(local).as_posix()}", path) for path in files]

    def publish(
        self, *, metrics: Mapping[str, Metric] | None = None, properties: Mapping[str, str] | None = None
    ) -> Artifact:
        """Make the artifact valid. Where another attempt was faster, its artifact is used and this one removed.

        :raises AirsmithError: `verification_failed` where the store does not hold what was written.
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
            # Whoever has published may have removed what other attempts wrote.
            if not self.store.exists(f"{self.folder}/{MANIFEST}"):
                raise
            return self._yield_to_winner()
        if self.store.create(f"{self.folder}/{MANIFEST}", manifest.model_dump_json(indent=2).encode()):
            self.published = True
            return artifact
        return self._yield_to_winner()

    def discard(self) -> None:
        """Remove what was written, as far as the store lets us; the janitor takes the rest."""
        self._discarded = True
        with contextlib.suppress(AirsmithError):
            for info in list(self.store.list(f"{self.folder}/{self.content_root}")):
                self.store.delete(info.path)

    def _yield_to_winner(self) -> Artifact:
        winner = open_artifact(self.store, self.folder)
        if winner is None:
            raise AirsmithError(
                ErrorKind.STORE_UNAVAILABLE,
                f"The store {self.store.uri} says that {self.folder}/{MANIFEST} exists, but does not show it.",
                "Run again; if it stays so, the store does not honour conditional puts.",
            )
        if winner.manifest.content_root == self.content_root:
            # A put whose answer was lost and that was sent again finds its own first try.
            self.published = True
            return winner
        log.info("Another attempt published %s first; using that", self.folder)
        self.discard()
        self.published = True
        return winner

    def _written(self, entry: FileEntry, path: str) -> FileEntry:
        if self._discarded:  # meanwhile, by another thread, which may have looked before this file was there
            self.store.delete(path)
            raise AirsmithError(ErrorKind.INTERRUPTED, f"{entry.name} is no longer wanted.", "Run again.")
        self.files[entry.name] = entry
        return entry

    @contextmanager
    def _reserved(self, name: str) -> Iterator[str]:
        """Take a name, and give it back where adding fails: the file may be tried again.

        :returns: where the file goes to.
        """
        with self._lock:
            try:
                checked_path(name)
                refuse_clashes([*self._names, name])
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
    """Begin an artifact; leaving without `publish`, or by an exception, removes what was written, or it is `kept`."""
    writer = ArtifactWriter(store, folder, type, digest, inputs, versions)
    try:
        yield writer
    finally:
        if not (writer.published or writer.kept):
            writer.discard()


def _wrong(name: str, what: str) -> AirsmithError:
    return AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{name} {what}.", "Nothing was published; run again.")
