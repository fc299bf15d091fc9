"""What a store is made of: the operations that a bucket and a folder both offer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

MEBIBYTE = 1024 * 1024
STREAM_CHUNK_BYTES = 2 * MEBIBYTE

Piece: TypeAlias = "bytes | memoryview"
"""Some bytes of an object that is being written."""


@dataclass(frozen=True)
class Version:
    """What a compare-and-swap compares: the state of an object when it was read."""

    tag: str


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    path: str
    size_bytes: int
    modified: datetime


class Objects(Protocol):
    """Objects by path. Raises obstore's exceptions and OSError; FileNotFoundError where there is no such object."""

    @property
    def address(self) -> str:
        """How a person knows the place: for messages."""

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """The whole of an object and its version, or None where there is none."""

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""

    def stream(self, path: str, chunk_bytes: int) -> Iterator[bytes]:
        """The whole of an object, piece by piece."""

    def put(self, path: str, data: bytes) -> None:
        """Write an object, over one that is there."""

    def put_if(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object whose version is still the expected one.

        :param expected: None for an object that is not to be there.
        :returns: False where the version is another.
        """

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None) -> int:
        """Write an object from pieces; a failing piece leaves nothing."""

    def copy(self, source: str, target: str) -> None:
        """Write an object that is the same as another, without its bytes passing here; a bucket's up to 5 GiB."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder; all of all where the prefix is empty."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""

    def free_bytes(self) -> int | None:
        """Room that is left, where the place can tell."""
