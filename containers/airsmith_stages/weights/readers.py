"""Read a model's files from a folder or from an artifact in the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from airsmith.artifacts.objects import STREAM_CHUNK_BYTES

if TYPE_CHECKING:
    from airsmith.artifacts.read import Artifact


class FileReader(Protocol):
    """Reads files by explicit ranges: a failed read of a memory-mapped remote file kills the process with a signal."""

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file."""

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Some bytes of a file."""

    def stream(self, name: str) -> Iterator[bytes]:
        """A file in pieces; a file of an artifact is verified after its last piece."""


@dataclass(frozen=True)
class FolderReader:
    """Reads files of a local folder."""

    folder: Path

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file."""
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Some bytes of a file."""
        with (self.folder / name).open("rb", buffering=0) as file:
            return _read_exactly(file.fileno(), offset, length)

    def stream(self, name: str) -> Iterator[bytes]:
        """A file in pieces."""
        with (self.folder / name).open("rb", buffering=0) as file:
            while chunk := file.read(STREAM_CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class ArtifactReader:
    """Reads files of a published artifact."""

    artifact: Artifact

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file."""
        return {entry.name: entry.size_bytes for entry in self.artifact.manifest.files}

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Some bytes of a file, without verification."""
        return self.artifact.store.read_range(self.artifact.path(name), offset, length)

    def stream(self, name: str) -> Iterator[bytes]:
        """A file in pieces.

        :raises AirsmithError: `verification_failed` after the last piece if the content is not what was published.
        """
        return self.artifact.stream(name)


def _read_exactly(file: int, offset: int, length: int) -> bytes:
    pieces = []
    while length > 0 and (piece := os.pread(file, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
