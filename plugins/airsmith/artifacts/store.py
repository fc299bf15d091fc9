"""The object store: S3 or a compatible server, a local folder, or memory, behind one interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from airsmith.artifacts.bucket import open_memory, open_s3
from airsmith.artifacts.folder import Folder
from airsmith.artifacts.layout import checked_path
from airsmith.artifacts.objects import MEBIBYTE, STREAM_CHUNK_BYTES, ObjectInfo, Objects, Piece, Version
from airsmith.artifacts.store_errors import store_errors
from airsmith.errors import AirsmithError, ErrorKind

__all__ = ["MEBIBYTE", "STREAM_CHUNK_BYTES", "ObjectInfo", "Piece", "Store", "Version"]


@dataclass(frozen=True)
class Store:
    """An object store, or a folder of one. Paths are relative, with `/`.

    A store must support conditional puts (If-None-Match and If-Match), as S3, MinIO and local folders do.

    Every call raises AirsmithError: `not_found`, `access_denied`, `disk_full`, `verification_failed` for an invalid
    path, or `store_unavailable` when retries with backoff have reached the deadline (120 s by default;
    AIRSMITH_STORE_DEADLINE_SECONDS, read by `open`, overrides it).

    :param uri: the URI that `open` accepts.
    :param objects: the implementation.
    """

    uri: str
    objects: Objects = field(repr=False, compare=False)

    @classmethod
    def open(cls, uri: str) -> Store:
        """Open `s3://bucket/prefix`, `file:///dir` or, in tests, `memory://name`, without network or disk access.

        S3's endpoint, region and credentials come from the environment (`AWS_*`) or the pod's identity.

        :raises AirsmithError: `bad_recipe` for any other URI.
        """
        scheme, separator, rest = uri.partition("://")
        rest = rest.rstrip("/")
        if scheme == "s3" and rest.partition("/")[0]:
            bucket, _, prefix = rest.partition("/")
            return cls(f"s3://{rest}", open_s3(bucket, prefix.strip("/")))
        if scheme == "file" and rest.startswith("/"):
            return cls(f"file://{rest}", Folder(Path(unquote(rest))))
        if scheme == "memory" and separator:
            return cls(f"memory://{rest}", open_memory(rest))
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"{uri!r} is not a supported store URI.", "Use s3://bucket/prefix or file:///dir."
        )

    def read(self, path: str) -> bytes:
        """Read an object."""
        return self.read_with_version(path)[0]

    def read_with_version(self, path: str) -> tuple[bytes, Version]:
        """Read an object and its version, which `compare_and_swap` compares."""
        found = self.find(path)
        if found is None:
            with self._errors(path):
                raise FileNotFoundError(path)
        return found

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """Like `read_with_version`, but None if the object does not exist; a missing bucket is still an error."""
        with self._errors(path):
            return self.objects.find(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read a range of an object."""
        with self._errors(path):
            return self.objects.get_range(path, offset, length)

    def stream(self, path: str, chunk_bytes: int = STREAM_CHUNK_BYTES) -> Iterator[bytes]:
        """Read an object in pieces."""
        with self._errors(path):
            yield from self.objects.stream(path, chunk_bytes)

    def write(self, path: str, data: bytes) -> None:
        """Write an object and replace an existing one; readers see the old or the new object complete."""
        with self._errors(path, len(data)):
            self.objects.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object that must not exist yet (If-None-Match: *).

        :returns: False if it already exists.
        """
        return self.compare_and_swap(path, data, None)

    def compare_and_swap(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object if its version is unchanged since it was read (If-Match).

        A lost response and a lost race are distinguished by the object's content, so two concurrent writers of
        identical content may both receive True.

        :param expected: the version that was read; None if the object did not exist.
        :returns: False if another writer was faster.
        """
        with self._errors(path, len(data)):
            return self.objects.put_if_unchanged(path, data, expected)

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None = None) -> int:
        """Write an object from pieces with bounded memory; if `chunks` raises, nothing is written.

        :param size_bytes: the size if known, to choose the size of the parts.
        :returns: number of bytes written.
        """
        failures: list[Exception] = []

        def watched() -> Iterator[Piece]:
            try:
                yield from chunks
            except Exception as failure:
                failures.append(failure)
                raise

        try:
            with self._errors(path, size_bytes):
                return self.objects.upload(path, watched(), size_bytes)
        except AirsmithError:
            if failures:  # The source failed, not the store, so its error is raised unchanged.
                raise failures[0] from None
            raise

    def upload_file(self, path: str, local: Path) -> int:
        """Write an object from a local file."""
        with local.open("rb") as file:
            return self.upload(path, iter(lambda: file.read(STREAM_CHUNK_BYTES), b""), local.stat().st_size)

    def copy(self, source: str, target: str) -> None:
        """Copy an object of up to 5 GiB inside the store; `copy_object` also copies larger ones."""
        _check_path(target)
        with self._errors(source):
            self.objects.copy(source, target)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List all objects in a folder; all objects of the store for an empty prefix."""
        with self._errors(prefix):
            yield from self.objects.list(prefix)

    def exists(self, path: str) -> bool:
        """Whether the object exists."""
        with self._errors(path):
            return self.objects.exists(path)

    def delete(self, path: str) -> None:
        """Delete an object; a missing object is not an error."""
        with self._errors(path):
            self.objects.delete(path)

    def _errors(self, path: str, needed_bytes: int | None = None) -> AbstractContextManager[None]:
        if path:
            _check_path(path)
        return store_errors(self.objects.address, path, needed_bytes, self.objects.free_bytes)


def _check_path(path: str) -> None:
    try:
        checked_path(path)
    except ValueError as error:
        raise AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{error}.", "Rename the file at its source.") from error
