"""One file of a source: its name, size and expected hash, and how to stream it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Event

from airsmith.artifacts.manifest import FileEntry
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.store import Piece, Store
from airsmith.contracts.errors import AirsmithError, ErrorKind

Stream = Callable[[Event], Iterator[Piece]]
"""Begins to read a file. Once the event is set nobody wants the rest: what waits for the source gives up."""


class CopyStoppedError(Exception):
    """The copy was given up because another has failed, or because the stage ends."""


@dataclass(frozen=True)
class SourceFile:
    """One file to copy.

    :param sha256: what its content must hash to, where the source says.
    :param git_blob: git's id of its content, where that is what the source says.
    """

    name: str
    size_bytes: int
    stream: Stream
    sha256: str | None = None
    git_blob: str | None = None

    def read(self) -> bytes:
        """The whole file, verified; for small ones.

        :raises AirsmithError: `verification_failed` where the content is not what the source announced.
        """
        content = b"".join(self._verified(Event()))
        if self.sha256 is not None and hashlib.sha256(content).hexdigest() != self.sha256:
            raise self._wrong("sha256", hashlib.sha256(content).hexdigest(), self.sha256)
        return content

    def copy_to(self, output: ArtifactWriter, stop: Event) -> FileEntry:
        """Stream the file into an artifact, verified before the object exists.

        :raises AirsmithError: `verification_failed` where the content is not what the source announced.
        :raises CopyStoppedError: once the event is set.
        """
        return output.add_stream(self.name, self._verified(stop), self.size_bytes, self.sha256)

    def take_from_store(self, path: str, output: ArtifactWriter, stop: Event) -> FileEntry:
        """Add the file from an object of the artifact's store in place of the source.

        :param path: an object that is known to have the file's sha256; for a file that has none to compare, one that
            is read and verified.
        :raises AirsmithError: `not_found` or `verification_failed` where it is not that any more.
        """
        if self.sha256 is not None:
            return output.add_copy(self.name, path, self.size_bytes, self.sha256)
        return replace(self, stream=streaming(output.store, path)).copy_to(output, stop)

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
            raise self._wrong("git blob id", blob.hexdigest(), self.git_blob)

    def _wrong(self, what: str, found: str, announced: str | None) -> AirsmithError:
        return AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{self.name} arrived with {what} {found}, not the announced {announced}.",
            "Nothing was published; run again.",
        )


def streaming(store: Store, path: str) -> Stream:
    """What reads an object."""
    return lambda stop: store.stream(path)
