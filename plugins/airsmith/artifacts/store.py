"""The object store: S3 and its likes, a local folder, or memory, behind the few calls that Airsmith needs."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store

from airsmith.artifacts.store_errors import store_errors
from airsmith.contracts.errors import AirsmithError, ErrorKind

MEBIBYTE = 1024 * 1024
STREAM_CHUNK_BYTES = 8 * MEBIBYTE
SMALLEST_PART_BYTES = 16 * MEBIBYTE
MOST_PARTS = 9_000
"""S3 takes 10,000 parts; the margin covers sizes that are only nearly known."""
PARTS_IN_FLIGHT = 4
UNKNOWN_SIZE_BYTES = 400 * 1024 * MEBIBYTE
"""Size that parts are cut for where the real one is not known."""

DEADLINE_VARIABLE = "AIRSMITH_STORE_DEADLINE_SECONDS"
DEFAULT_DEADLINE_SECONDS = 120.0

_LOCK_FILE = ".airsmith.lock"
_memory_stores: dict[str, MemoryStore] = {}


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


@dataclass(frozen=True)
class Store:
    """An object store, or a folder of one. Paths are relative, with `/`.

    Every call raises AirsmithError: `not_found`, `access_denied`, `disk_full`, or `store_unavailable` once retries with
    backoff have used up the deadline (120 s; AIRSMITH_STORE_DEADLINE_SECONDS changes it).
    """

    uri: str
    _objects: ObjectStore = field(repr=False, compare=False)
    _folder: Path | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, uri: str) -> Store:
        """Open `s3://bucket/prefix`, `file:///dir` or, in tests, `memory://name`. Asks nothing of the network.

        S3's endpoint, region and credentials come from the environment (`AWS_*`) or the pod's identity.

        :raises AirsmithError: `bad_recipe` for any other URI; `access_denied` where the folder cannot be made.
        """
        uri = uri.rstrip("/")
        parts = urlsplit(uri)
        if parts.scheme == "s3" and parts.netloc:
            return cls(uri, _open_s3(parts.netloc, parts.path.strip("/")))
        if parts.scheme == "file" and not parts.netloc and parts.path:
            folder = Path(unquote(parts.path))
            with store_errors(uri, "its folder"):
                folder.mkdir(parents=True, exist_ok=True)
                return cls(uri, LocalStore(folder), folder)
        if parts.scheme == "memory":
            return cls(uri, _memory_stores.setdefault(uri, MemoryStore()))
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"{uri!r} is no store that Airsmith knows.", "Use s3://bucket/prefix or file:///dir."
        )

    def read(self, path: str) -> bytes:
        """The whole of an object."""
        with store_errors(self.uri, path):
            return bytes(obstore.get(self._objects, path).bytes())

    def read_versioned(self, path: str) -> tuple[bytes, Version]:
        """The whole of an object, and what `swap` must find unchanged."""
        with store_errors(self.uri, path):
            result = obstore.get(self._objects, path)
            data = bytes(result.bytes())
            if self._folder is not None:
                return data, _content_version(data)
            return data, Version(result.meta["e_tag"] or "")

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""
        with store_errors(self.uri, path):
            return bytes(obstore.get_range(self._objects, path, start=offset, length=length))

    def stream(self, path: str, chunk_bytes: int = STREAM_CHUNK_BYTES) -> Iterator[bytes]:
        """The whole of an object, piece by piece."""
        with store_errors(self.uri, path):
            for chunk in obstore.get(self._objects, path).stream(min_chunk_size=chunk_bytes):
                yield bytes(chunk)

    def write(self, path: str, data: bytes) -> None:
        """Write an object, over one that is there; readers see the old or the new one whole."""
        with store_errors(self.uri, path):
            obstore.put(self._objects, path, data, use_multipart=False)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object that must not be there yet (If-None-Match: *).

        :returns: False where it is there already.
        """
        with store_errors(self.uri, path):
            try:
                obstore.put(self._objects, path, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def swap(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object that must still be as it was read (If-Match).

        :param expected: the version that was read; None where there was no object.
        :returns: False where somebody else was faster.
        """
        if expected is None:
            return self.create(path, data)
        if self._folder is not None:
            return self._swap_locked(path, data, expected)
        with store_errors(self.uri, path):
            try:
                obstore.put(self._objects, path, data, mode={"e_tag": expected.tag})
            except (PreconditionError, FileNotFoundError):
                return False
        return True

    def upload(self, path: str, chunks: Iterable[bytes], size_bytes: int | None = None) -> int:
        """Write an object from pieces, in parts and bounded memory; an exception from the pieces leaves nothing.

        :param size_bytes: the size where it is known, so that the parts fit.
        :returns: the bytes written.
        """
        written = 0
        # Not `put` with an iterator: chunks that come from a store themselves may not run inside obstore's own loop.
        with (
            store_errors(self.uri, path),
            obstore.open_writer(
                self._objects, path, buffer_size=part_bytes(size_bytes), max_concurrency=PARTS_IN_FLIGHT
            ) as writer,
        ):
            for chunk in chunks:
                writer.write(chunk)
                written += len(chunk)
        return written

    def upload_file(self, path: str, local: Path) -> int:
        """Write an object from a local file."""
        with local.open("rb") as file:
            return self.upload(path, iter(lambda: file.read(STREAM_CHUNK_BYTES), b""), local.stat().st_size)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder."""
        with store_errors(self.uri, prefix):
            for page in obstore.list(self._objects, prefix):
                for item in page:
                    if not item["path"].endswith(_LOCK_FILE):
                        yield ObjectInfo(item["path"], item["size"], item["last_modified"])

    def exists(self, path: str) -> bool:
        """Whether there is an object of this name."""
        with store_errors(self.uri, path):
            try:
                obstore.head(self._objects, path)
            except FileNotFoundError:
                return False
        return True

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        with store_errors(self.uri, path):
            try:
                obstore.delete(self._objects, path)
            except FileNotFoundError:
                return

    def _swap_locked(self, path: str, data: bytes, expected: Version) -> bool:
        """A local folder has no If-Match: compare and write under a lock that the kernel drops with its holder."""
        with self._locked():
            try:
                current = _content_version(self.read(path))
            except AirsmithError as error:
                if error.kind is ErrorKind.NOT_FOUND:
                    return False
                raise
            if current != expected:
                return False
            self.write(path, data)
            return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        assert self._folder is not None
        with store_errors(self.uri, _LOCK_FILE), (self._folder / _LOCK_FILE).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def part_bytes(size_bytes: int | None) -> int:
    """Size of a multipart upload's parts: at least 16 MiB, and as much as keeps the parts under S3's 10,000."""
    size = UNKNOWN_SIZE_BYTES if size_bytes is None else size_bytes
    return max(SMALLEST_PART_BYTES, -(-size // MOST_PARTS))


def _content_version(data: bytes) -> Version:
    return Version(hashlib.sha256(data).hexdigest())


def _open_s3(bucket: str, prefix: str) -> S3Store:
    deadline = timedelta(seconds=float(os.environ.get(DEADLINE_VARIABLE, DEFAULT_DEADLINE_SECONDS)))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={"allow_http": endpoint.startswith("http://"), "connect_timeout": "10s", "read_timeout": "60s"},
        retry_config={"max_retries": 10, "retry_timeout": deadline},
    )
