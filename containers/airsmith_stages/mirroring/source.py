"""Files of a source, wherever they lie: names, sizes, expected hashes, and a way to stream them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event

from airsmith.artifacts.listing import list_source, listing_digest
from airsmith.artifacts.manifest import FileEntry
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind

Stream = Callable[[Event], Iterator[bytes]]
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

    def _verified(self, stop: Event) -> Iterator[bytes]:
        blob = hashlib.sha1(b"blob %d\0" % self.size_bytes, usedforsecurity=False)
        for chunk in self.stream(stop):
            if stop.is_set():
                raise CopyStoppedError(self.name)
            blob.update(chunk)
            yield chunk
        if self.git_blob is not None and blob.hexdigest() != self.git_blob:
            raise self._wrong("git blob id", blob.hexdigest(), self.git_blob)

    def _wrong(self, what: str, found: str, announced: str) -> AirsmithError:
        return AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{self.name} arrived with {what} {found}, not the announced {announced}.",
            "Nothing was published; run again.",
        )


def store_files(uri: str, pinned_listing: str) -> list[SourceFile]:
    """The files of a folder in a store.

    :param pinned_listing: the folder's listing digest when the run was resolved.
    :raises AirsmithError: `bad_data` where the folder has changed since.
    """
    refuse_changed_store(uri, pinned_listing)
    store = Store.open(uri)
    return [SourceFile(info.path, info.size_bytes, _streaming(store, info.path)) for info in list_source(uri)]


def refuse_changed_store(uri: str, pinned_listing: str) -> None:
    """Refuse a folder that somebody has written to since the run was resolved.

    :raises AirsmithError: `bad_data`.
    """
    if listing_digest(uri) != pinned_listing:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"{uri} has changed since this run was resolved.",
            "Start a new run, and let nobody write there meanwhile.",
        )


def _streaming(store: Store, path: str) -> Stream:
    return lambda stop: store.stream(path)
