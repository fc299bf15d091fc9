"""One file of a source: its name, size and expected hash, and how to stream it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Event

from airsmith.artifacts.manifest import FileEntry
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.store import Piece, Store
from airsmith.errors import AirsmithError, ErrorKind

Stream = Callable[[Event], Iterator[Piece]]
"""Opens a file's stream. When the event is set, the rest is no longer needed and the stream stops waiting."""


class CopyStoppedError(Exception):
    """The copy was stopped because another copy failed or because the stage is terminating."""


@dataclass(frozen=True)
class SourceFile:
    """One file to copy.

    :param sha256: expected hash of the content, if the source provides one.
    :param git_blob: expected git blob id of the content, if the source provides that instead.
    """

    name: str
    size_bytes: int
    stream: Stream
    sha256: str | None = None
    git_blob: str | None = None

    def read(self) -> bytes:
        """Read a whole, verified file; only for small files.

        :raises AirsmithError: `verification_failed` if the content does not match the hash that the source announced.
        """
        content = b"".join(self._verified(Event()))
        if self.sha256 is not None and hashlib.sha256(content).hexdigest() != self.sha256:
            raise self._mismatch("sha256", hashlib.sha256(content).hexdigest(), self.sha256)
        return content

    def copy_to(self, output: ArtifactWriter, stop: Event) -> FileEntry:
        """Stream the file into an artifact; the content is verified before the object exists.

        :raises AirsmithError: `verification_failed` if the content does not match the hash that the source announced.
        :raises CopyStoppedError: if `stop` is set.
        """
        return output.add_stream(self.name, self._verified(stop), self.size_bytes, self.sha256)

    def copy_from_store(self, path: str, output: ArtifactWriter, stop: Event) -> FileEntry:
        """Add the file from an object in the artifact's store instead of the source.

        :param path: an object known to have the file's sha256; if the file has no sha256, the object is read and
            verified by its git blob id.
        :raises AirsmithError: `not_found` or `verification_failed` if the object is gone or has changed.
        """
        if self.sha256 is not None:
            return output.add_copy(self.name, path, self.size_bytes, self.sha256)
        return replace(self, stream=object_stream(output.store, path)).copy_to(output, stop)

    def _verified(self, stop: Event) -> Iterator[Piece]:
        blob = None
        if self.git_blob is not None:
            blob = hashlib.sha1(b"blob %d\0" % self.size_bytes, usedforsecurity=False)
        for chunk in self.stream(stop):
            if stop.is_set():
                raise CopyStoppedError(self.name)
            if blob is not None:
                blob.update(chunk)
            yield chunk
        if blob is not None and blob.hexdigest() != self.git_blob:
            raise self._mismatch("git blob id", blob.hexdigest(), self.git_blob)

    def _mismatch(self, what: str, found: str, announced: str | None) -> AirsmithError:
        return AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{self.name} has {what} {found}, but the source announced {announced}.",
            "Nothing was published. Run again.",
        )


def object_stream(store: Store, path: str) -> Stream:
    """A stream of an object in a store."""
    return lambda stop: store.stream(path)
