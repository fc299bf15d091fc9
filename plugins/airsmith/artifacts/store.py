"""The object store: S3 and its likes, a local folder, or memory, behind the few calls that Airsmith needs."""

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

    A store must honour conditional puts (If-None-Match and If-Match), as S3, MinIO and local folders do.

    Every call raises AirsmithError: `not_found`, `access_denied`, `disk_full`, `verification_failed` for a path that no
    store can hold, or `store_unavailable` once retries with backoff have used up the deadline (120 s;
    AIRSMITH_STORE_DEADLINE_SECONDS, read at `open`, changes it).

    :param uri: what `open` opens.
    :param objects: what does the work.
    """

    uri: str
    objects: Objects = field(repr=False, compare=False)

    @classmethod
    def open(cls, uri: str) -> Store:
        """Open `s3://bucket/prefix`, `file:///dir` or, in tests, `memory://name`. Asks nothing of network or disk.

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
            ErrorKind.BAD_RECIPE, f"{uri!r} is no store that Airsmith knows.", "Use s3://bucket/prefix or file:///dir."
        )

    def read(self, path: str) -> bytes:
        """The whole of an object."""
        return self.read_versioned(path)[0]

    def read_versioned(self, path: str) -> tuple[bytes, Version]:
        """The whole of an object, and what `swap` must find unchanged."""
        found = self.find(path)
        if found is None:
            with self._errors(path):
                raise FileNotFoundError(path)
        return found

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """Like `read_versioned`, but None where there is no such object; a bucket that is missing is an error still."""
        with self._errors(path):
            return self.objects.find(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""
        with self._errors(path):
            return self.objects.get_range(path, offset, length)

    def stream(self, path: str, chunk_bytes: int = STREAM_CHUNK_BYTES) -> Iterator[bytes]:
        """The whole of an object, piece by piece."""
        with self._errors(path):
            yield from self.objects.stream(path, chunk_bytes)

    def write(self, path: str, data: bytes) -> None:
        """Write an object, over one that is there; readers see the old or the new one whole."""
        with self._errors(path, len(data)):
            self.objects.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object that must not be there yet (If-None-Match: *).

        :returns: False where it is there already.
        """
        return self.swap(path, data, None)

    def swap(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object that must still be as it was read (If-Match).

        A put whose answer was lost on the way is told from a lost race by the bytes that are there: whoever writes the
        very same bytes as another may both be told True.

        :param expected: the version that was read; None where there was no object.
        :returns: False where somebody else was faster.
        """
        with self._errors(path, len(data)):
            return self.objects.put_if(path, data, expected)

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None = None) -> int:
        """Write an object from pieces, in parts and bounded memory; an exception from the pieces leaves nothing.

        :param size_bytes: the size where it is known, so that the parts fit.
        :returns: the bytes written.
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
            if failures:  # It is the source that failed, and what it says is no word of this store's.
                raise failures[0] from None
            raise

    def upload_file(self, path: str, local: Path) -> int:
        """Write an object from a local file."""
        with local.open("rb") as file:
            return self.upload(path, iter(lambda: file.read(STREAM_CHUNK_BYTES), b""), local.stat().st_size)

    def copy(self, source: str, target: str) -> None:
        """Write an object that is the same as another of up to 5 GiB, without its bytes passing here.

        `copy_object` takes larger ones.
        """
        _refuse_bad(target)
        with self._errors(source):
            self.objects.copy(source, target)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder; all of the store for the empty prefix."""
        with self._errors(prefix):
            yield from self.objects.list(prefix)

    def exists(self, path: str) -> bool:
        """Whether there is an object of this name."""
        with self._errors(path):
            return self.objects.exists(path)

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._errors(path):
            self.objects.delete(path)

    def _errors(self, path: str, needed_bytes: int | None = None) -> AbstractContextManager[None]:
        if path:
            _refuse_bad(path)
        return store_errors(self.objects.address, path, needed_bytes, self.objects.free_bytes)


def _refuse_bad(path: str) -> None:
    try:
        checked_path(path)
    except ValueError as error:
        raise AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{error}.", "Rename it at its source.") from error
