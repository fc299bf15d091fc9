"""A store in an S3 bucket or in memory: obstore, with conditional puts that survive lost responses."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import MemoryStore, ObjectStore, S3Store

from airsmith.artifacts.objects import MEBIBYTE, ObjectInfo, Piece, Version
from airsmith.artifacts.store_errors import is_missing_bucket, is_missing_upload, is_transient
from airsmith.errors import AirsmithError, ErrorKind

if TYPE_CHECKING:
    from obstore import PutMode

MIN_PART_BYTES = 8 * MEBIBYTE
MAX_PARTS = 9_000
"""S3 accepts 10,000 parts; the margin allows for sizes that are only estimates."""
PARTS_IN_FLIGHT = 3

DEADLINE_VARIABLE = "AIRSMITH_STORE_DEADLINE_SECONDS"
DEFAULT_DEADLINE_SECONDS = 120.0

_MIN_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 5.0
_NO_LIMIT_SECONDS = 30 * 24 * 3600
_LIST_PAGE = 1000
_MAX_READS = 4
_MD5 = re.compile('"?[0-9a-f]{32}"?')
_memory_stores: dict[str, MemoryStore] = {}


@dataclass(frozen=True)
class Bucket:
    """Objects in a bucket.

    :param objects: a client that retries failed requests.
    :param without_retries: a client without retries, for conditional puts: after a lost response, a blind retry of an
        applied put would find its own object and report a lost race.
    :param deadline_seconds: how long a request is retried.
    """

    address: str
    objects: ObjectStore
    without_retries: ObjectStore
    deadline_seconds: float

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """Read an object and its version; None if it does not exist.

        The content is verified against its ETag, which is the MD5 of an object written by one request, unless KMS
        encrypts it. If the ETag does not match, two equal reads are accepted.
        """
        earlier: set[bytes] = set()
        for _ in range(_MAX_READS):
            try:
                result = obstore.get(self.objects, path)
                data, tag = bytes(result.bytes()), result.meta["e_tag"] or ""
            except FileNotFoundError as failure:
                if is_missing_bucket(failure):
                    raise
                return None
            if not _MD5.fullmatch(tag) or _md5(data) == tag.strip('"') or data in earlier:
                return data, Version(tag)
            earlier.add(data)
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{path} of {self.address} differs on every read.",
            "Check the network connection to the store; HTTPS detects corrupt transfers.",
        )

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Read a range of an object."""
        return bytes(obstore.get_range(self.objects, path, start=offset, length=length))

    def stream(self, path: str, chunk_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces; obstore resumes after a broken connection."""
        for chunk in obstore.get(self.objects, path).stream(min_chunk_size=chunk_bytes):
            yield bytes(chunk)

    def put(self, path: str, data: bytes) -> None:
        """Write an object and replace an existing one."""
        obstore.put(self.objects, path, data, use_multipart=False)

    def put_if_unchanged(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object if its version is still the expected one (If-None-Match: * or If-Match).

        After a failure, the object is read. If its version changed, the race is lost, unless the object is what an
        attempt with a lost response wrote. If its version did not change, the attempt was not applied or conflicted
        with a concurrent one (409), and is repeated.
        """
        mode: PutMode = "create" if expected is None else {"e_tag": expected.tag}
        response_lost = False
        for is_last in _attempts(self.deadline_seconds):
            try:
                obstore.put(self.without_retries, path, data, mode=mode)
                return True
            except BaseError as failure:
                refused = isinstance(failure, (AlreadyExistsError, PreconditionError))
                if is_last or not (refused or is_transient(failure)):
                    raise
                response_lost = response_lost or not refused
            found = self.find(path)
            if (found[1] if found is not None else None) != expected:
                return response_lost and found is not None and found[0] == data
        raise AssertionError("the last attempt returns or raises")

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None) -> int:
        """Write an object from pieces: in one request if they fit into one part, else as a multipart upload."""
        sent_bytes = 0
        buffered: deque[Piece] = deque()

        def counted() -> Iterator[Piece]:
            nonlocal sent_bytes
            for chunk in chunks:
                sent_bytes += len(chunk)
                yield chunk

        def sent() -> Iterator[Piece]:
            while buffered:
                yield buffered.popleft()
            yield from pieces

        pieces = (chunk for chunk in counted() if chunk)
        for chunk in pieces:
            buffered.append(chunk)
            if sent_bytes > MIN_PART_BYTES:
                break
        else:
            self.put(path, b"".join(buffered))
            return sent_bytes
        del chunk
        try:
            obstore.put(self.objects, path, sent(), chunk_size=part_bytes(size_bytes), max_concurrency=PARTS_IN_FLIGHT)
        except FileNotFoundError as failure:
            # The response to the completion was lost; the retry finds that the upload no longer exists (MinIO).
            if not is_missing_upload(failure) or self._size_bytes(path) != sent_bytes:
                raise
        return sent_bytes

    def copy(self, source: str, target: str) -> None:
        """Copy an object in one request, which S3 supports up to 5 GiB."""
        obstore.copy(self.objects, source, target)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List all objects in a folder."""
        for page in obstore.list(self.objects, prefix, chunk_size=_LIST_PAGE):
            for item in page:
                yield ObjectInfo(item["path"], item["size"], item["last_modified"])

    def exists(self, path: str) -> bool:
        """Whether the object exists."""
        return self._size_bytes(path) is not None

    def _size_bytes(self, path: str) -> int | None:
        try:
            return obstore.head(self.objects, path)["size"]
        except FileNotFoundError:
            return None

    def delete(self, path: str) -> None:
        """Delete an object; a missing object is not an error."""
        try:
            obstore.delete(self.objects, path)
        except FileNotFoundError as failure:
            if is_missing_bucket(failure):
                raise

    def free_bytes(self) -> int | None:
        """None: the free space of a bucket is unknown."""
        return None


def open_s3(name: str, prefix: str) -> Bucket:
    """Open a bucket of S3 or of a compatible server; the environment defines endpoint, region and credentials.

    :raises AirsmithError: `bad_recipe` if the deadline in the environment is invalid.
    """
    deadline_seconds = _deadline_seconds()
    endpoint, region = s3_location()
    location = endpoint or f"AWS S3 in {region}"

    def client(max_retries: int) -> S3Store:
        return S3Store(
            name,
            prefix=prefix or None,
            disable_bulk_delete=True,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=min(10.0, deadline_seconds)),
                "read_timeout": timedelta(seconds=deadline_seconds / 2),
                # No limit for a whole request: a large object may take hours. The read timeout aborts a stalled one.
                "timeout": timedelta(seconds=_NO_LIMIT_SECONDS),
            },
            retry_config={
                "max_retries": max_retries,
                "retry_timeout": timedelta(seconds=deadline_seconds),
                "backoff": {
                    "init_backoff": timedelta(seconds=_MIN_PAUSE_SECONDS),
                    "max_backoff": timedelta(seconds=_MAX_PAUSE_SECONDS),
                    "base": 2,
                },
            },
        )

    uri = f"s3://{name}/{prefix}".rstrip("/")
    return Bucket(f"{uri} at {location}", client(10_000), client(0), deadline_seconds)


def s3_location() -> tuple[str, str]:
    """Endpoint and region of S3 from the environment; the endpoint is empty for AWS."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def open_memory(name: str) -> Bucket:
    """Open a store in this process's memory, for tests; the same name opens the same store."""
    objects = _memory_stores.setdefault(name, MemoryStore())
    return Bucket(f"memory://{name}", objects, objects, _deadline_seconds())


def part_bytes(size_bytes: int | None) -> int:
    """Size of the parts of a multipart upload: at least 8 MiB, and large enough for S3's limit of 10,000 parts.

    :param size_bytes: size of the object; None if unknown, which limits the object to 78 GiB.
    """
    return max(MIN_PART_BYTES, -(-(size_bytes or 0) // MAX_PARTS))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _attempts(deadline_seconds: float) -> Iterator[bool]:
    """Yield once per attempt, True for the last one, with exponential backoff in between."""
    until = time.monotonic() + deadline_seconds
    pause_seconds = _MIN_PAUSE_SECONDS
    while time.monotonic() < until:
        yield False
        time.sleep(random.uniform(0, min(pause_seconds, max(0.0, until - time.monotonic()))))
        pause_seconds = min(pause_seconds * 2, _MAX_PAUSE_SECONDS)
    yield True


def _deadline_seconds() -> float:
    text = os.environ.get(DEADLINE_VARIABLE) or str(DEFAULT_DEADLINE_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _NO_LIMIT_SECONDS:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{DEADLINE_VARIABLE} is {text!r}, which is not a valid number of seconds.",
            f"Set it to how long a request to the store is retried; the default is {DEFAULT_DEADLINE_SECONDS:.0f}.",
        )
    return seconds
