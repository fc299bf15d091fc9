"""Read artifacts: sizes are verified always, content hashes before another stage trusts the content."""

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
        """URI of its folder."""
        return f"{self.store.uri}/{self.folder}"

    @property
    def type(self) -> str:
        """Type of what it holds."""
        return self.manifest.type

    @property
    def digest(self) -> str:
        """Digest that addresses it."""
        return self.manifest.digest

    def names(self) -> list[str]:
        """Names of its files."""
        return [entry.name for entry in self.manifest.files]

    def path(self, name: str) -> str:
        """Path of a file in the store."""
        return f"{self.folder}/{self.manifest.content_root}/{name}"

    def read(self, name: str) -> bytes:
        """A whole file, verified."""
        return b"".join(self.stream(name))

    def stream(self, name: str) -> Iterator[bytes]:
        """A file piece by piece.

        :raises AirsmithError: `verification_failed` after the last piece where size or sha256 differ.
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
            raise self._damaged(name, "differs from what was published")

    def download(self, local_dir: Path, names: Iterable[str] | None = None) -> Path:
        """Copy files, all or some, to the local disk, verified; a file that is there under its name is whole.

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
        """Check that the store holds every file of the manifest in its size.

        :raises AirsmithError: `verification_failed`, naming the first file that is missing or differs.
        """
        root = f"{self.folder}/{self.manifest.content_root}"
        sizes = {info.path: info.size_bytes for info in self.store.list(root)}
        for entry in self.manifest.files:
            size_bytes = sizes.get(f"{root}/{entry.name}")
            if size_bytes is None:
                raise self._damaged(entry.name, "is missing")
            if size_bytes != entry.size_bytes:
                raise self._damaged(entry.name, f"has {size_bytes} bytes, not {entry.size_bytes}")

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.file(name)
        if entry is None:
            raise AirsmithError(
                ErrorKind.NOT_FOUND, f"{self.uri} has no file {name}.", f"It has {', '.join(self.names()) or 'none'}."
            )
        return entry

    def _damaged(self, name: str, what: str) -> AirsmithError:
        return AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{name} of {self.uri} {what}.",
            "Delete that folder, and clear the stage that makes it.",
        )


def open_artifact(store: Store, folder: str) -> Artifact | None:
    """The artifact in a folder, its sizes verified, or None where none was published.

    :raises AirsmithError: `verification_failed` where the manifest is damaged or a file is missing or of another size.
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
            "Delete that folder, and clear the stage that makes it.",
        ) from error
    artifact = Artifact(store, folder, manifest)
    artifact.verify_sizes()
    return artifact
