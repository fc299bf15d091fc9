"""Read artifacts. Opening one verifies file sizes; reading a file verifies its hash."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from airsmith.artifacts.layout import MANIFEST, STAGING_PREFIX
from airsmith.artifacts.manifest import FileEntry, Manifest
from airsmith.artifacts.store import Store
from airsmith.artifacts.store_errors import local_errors
from airsmith.errors import AirsmithError, ErrorKind


@dataclass(frozen=True)
class Artifact:
    """A published artifact."""

    store: Store
    folder: str
    manifest: Manifest

    @property
    def uri(self) -> str:
        """URI of the artifact's folder."""
        return f"{self.store.uri}/{self.folder}"

    @property
    def type(self) -> str:
        """Type of the artifact."""
        return self.manifest.type

    @property
    def digest(self) -> str:
        """Digest that addresses the artifact."""
        return self.manifest.digest

    def names(self) -> list[str]:
        """Names of the files."""
        return [entry.name for entry in self.manifest.files]

    def path(self, name: str) -> str:
        """Path of a file in the store."""
        return f"{self.folder}/{self.manifest.content_root}/{name}"

    def read(self, name: str) -> bytes:
        """Read and verify a whole file."""
        return b"".join(self.stream(name))

    def stream(self, name: str) -> Iterator[bytes]:
        """Read a file in pieces.

        :raises AirsmithError: `verification_failed` after the last piece if the size or the SHA-256 differs.
        """
        entry = self._entry(name)
        sha256 = hashlib.sha256()
        size_bytes = 0
        for chunk in self.store.stream(self.path(name)):
            sha256.update(chunk)
            size_bytes += len(chunk)
            if size_bytes > entry.size_bytes:
                break
            yield chunk
        if size_bytes != entry.size_bytes or sha256.hexdigest() != entry.sha256:
            raise self._damaged(name, "differs from the published content")

    def download(self, local_dir: Path, names: Iterable[str] | None = None) -> Path:
        """Download and verify all or some files; a file at its final path is always complete.

        :raises AirsmithError: `verification_failed`; `not_found` for an unknown name; `disk_full`; `access_denied`.
        """
        for name in self.names() if names is None else names:
            with local_errors(local_dir, name, self._entry(name).size_bytes):
                self._download_file(name, local_dir / name)
        return local_dir

    def _download_file(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{STAGING_PREFIX}{uuid.uuid4().hex}")
        try:
            with partial.open("xb") as file:
                for chunk in self.stream(name):
                    file.write(chunk)
            partial.chmod(0o644)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def verify_sizes(self) -> None:
        """Check that every file of the manifest exists in the store with its size.

        :raises AirsmithError: `verification_failed`, naming the first missing or different file.
        """
        root = f"{self.folder}/{self.manifest.content_root}"
        sizes = {info.path: info.size_bytes for info in self.store.list(root)}
        for entry in self.manifest.files:
            size_bytes = sizes.get(f"{root}/{entry.name}")
            if size_bytes is None:
                raise self._damaged(entry.name, "is missing")
            if size_bytes != entry.size_bytes:
                raise self._damaged(entry.name, f"has {size_bytes} bytes, not the expected {entry.size_bytes}")

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.file(name)
        if entry is None:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"{self.uri} has no file {name}.",
                f"Its files are {', '.join(self.names()) or 'none'}.",
            )
        return entry

    def _damaged(self, name: str, what: str) -> AirsmithError:
        return AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{name} of {self.uri} {what}.",
            "Delete the artifact's folder, and clear the task that produces it.",
        )


def open_artifact(store: Store, folder: str) -> Artifact | None:
    """Open the artifact in a folder and verify its sizes; None if none was published.

    :raises AirsmithError: `verification_failed` if the manifest is damaged, or a file is missing or has another size.
    """
    found = store.find(f"{folder}/{MANIFEST}")
    if found is None:
        return None
    try:
        manifest = Manifest.model_validate_json(found[0])
    except ValidationError as error:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{store.uri}/{folder}/{MANIFEST} is damaged: {error.errors()[0]['msg']}.",
            "Delete the artifact's folder, and clear the task that produces it.",
        ) from error
    artifact = Artifact(store, folder, manifest)
    artifact.verify_sizes()
    return artifact
