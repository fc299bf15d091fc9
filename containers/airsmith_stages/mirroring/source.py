"""Files of a source, wherever they lie: names, sizes, expected hashes, and a way to stream them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from airsmith.artifacts.listing import list_source, listing_digest
from airsmith.artifacts.manifest import FileEntry
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind


@dataclass(frozen=True)
class SourceFile:
    """One file to copy.

    :param sha256: what its content must hash to, where the source says.
    :param git_blob: git's id of its content, where that is what the source says.
    """

    name: str
    size_bytes: int
    stream: Callable[[], Iterator[bytes]]
    sha256: str | None = None
    git_blob: str | None = None

    def read(self) -> bytes:
        """The whole file; for small ones."""
        return b"".join(self._verified())

    def copy_to(self, output: ArtifactWriter) -> FileEntry:
        """Stream the file into an artifact, verified before the object exists.

        :raises AirsmithError: `verification_failed` where the content is not what the source announced.
        """
        return output.add_stream(self.name, self._verified(), self.size_bytes, self.sha256)

    def _verified(self) -> Iterator[bytes]:
        blob = hashlib.sha1(b"blob %d\0" % self.size_bytes, usedforsecurity=False)
        for chunk in self.stream():
            blob.update(chunk)
            yield chunk
        if self.git_blob is not None and blob.hexdigest() != self.git_blob:
            raise AirsmithError(
                ErrorKind.VERIFICATION_FAILED,
                f"{self.name} arrived with git blob id {blob.hexdigest()}, not the announced {self.git_blob}.",
                "Nothing was published; run again.",
            )


def store_files(uri: str, pinned_listing: str) -> list[SourceFile]:
    """The files of a folder in a store.

    :param pinned_listing: the folder's listing digest when the run was resolved.
    :raises AirsmithError: `bad_data` where the folder has changed since.
    """
    if listing_digest(uri) != pinned_listing:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"{uri} has changed since this run was resolved.",
            "Start a new run, and let nobody write there meanwhile.",
        )
    store = Store.open(uri)
    return [SourceFile(info.path, info.size_bytes, _streaming(store, info.path)) for info in list_source(uri)]


def _streaming(store: Store, path: str) -> Callable[[], Iterator[bytes]]:
    return lambda: store.stream(path)
