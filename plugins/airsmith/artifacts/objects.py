"""The operations that a bucket and a local folder both implement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

MEBIBYTE = 1024 * 1024
STREAM_CHUNK_BYTES = 2 * MEBIBYTE

Piece: TypeAlias = "bytes | memoryview"
"""A piece of an object's content."""


@dataclass(frozen=True)
class Version:
    """The version of an object, as compared by a compare-and-swap."""

    tag: str


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    path: str
    size_bytes: int
    modified: datetime


class Objects(Protocol):
    """Objects by path. Raises obstore's exceptions and OSError, and FileNotFoundError if an object does not exist."""

    @property
    def address(self) -> str:
        """Human-readable location, for messages."""

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """Read an object and its version; None if it does not exist."""

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Read a range of an object."""

    def stream(self, path: str, chunk_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces."""

    def put(self, path: str, data: bytes) -> None:
        """Write an object and replace an existing one."""

    def put_if_unchanged(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object if its version is still the expected one.

        :param expected: None if the object must not exist.
        :returns: False if the version differs.
        """

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None) -> int:
        """Write an object from pieces; if a piece fails, nothing is written."""

    def copy(self, source: str, target: str) -> None:
        """Copy an object inside the store; in a bucket, of up to 5 GiB."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List all objects in a folder; all objects of the store for an empty prefix."""

    def exists(self, path: str) -> bool:
        """Whether the object exists."""

    def delete(self, path: str) -> None:
        """Delete an object; a missing object is not an error."""

    def free_bytes(self) -> int | None:
        """Free space; None if unknown."""
