"""A store in an S3 bucket, or in memory: obstore, with conditional puts that survive lost answers."""

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

SMALLEST_PART_BYTES = 8 * MEBIBYTE
MOST_PARTS = 9_000
"""S3 takes 10,000 parts; the margin covers sizes that are only nearly known."""
PARTS_IN_FLIGHT = 3

DEADLINE_VARIABLE = "AIRSMITH_STORE_DEADLINE_SECONDS"
DEFAULT_DEADLINE_SECONDS = 120.0

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_NO_LIMIT_SECONDS = 30 * 24 * 3600
_LIST_PAGE = 1000
_MOST_READS = 4
_MD5 = re.compile('"?[0-9a-f]{32}"?')
_memory_stores: dict[str, MemoryStore] = {}


@dataclass(frozen=True)
class Bucket:
    """Objects in a bucket.

    :param objects: a store that tries again by itself.
    :param single_try: the same that does not, for conditional puts: tried again blindly, one that was applied and whose
        answer was lost finds itself there and takes that for a lost race.
    :param deadline_seconds: how long a request is tried.
    """

    address: str
    objects: ObjectStore
    single_try: ObjectStore
    deadline_seconds: float

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """The whole of an object and its version, or None where there is none.

        What arrives is held against its ETag. That is the MD5 of what one request has put, but not where a key of KMS
        encrypts: there, two reads that agree are believed.
        """
        earlier: set[bytes] = set()
        for _ in range(_MOST_READS):
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
            f"{path} of {self.address} arrives otherwise each time it is read.",
            "Check the line to the store; HTTPS finds such faults.",
        )

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""
        return bytes(obstore.get_range(self.objects, path, start=offset, length=length))

    def stream(self, path: str, chunk_bytes: int) -> Iterator[bytes]:
        """The whole of an object, piece by piece; obstore goes on where a connection broke."""
        for chunk in obstore.get(self.objects, path).stream(min_chunk_size=chunk_bytes):
            yield bytes(chunk)

    def put(self, path: str, data: bytes) -> None:
        """Write an object, over one that is there."""
        obstore.put(self.objects, path, data, use_multipart=False)

    def put_if(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object whose version is still the expected one (If-None-Match: * or If-Match).

        After a failure the object itself tells: changed, the race is lost, unless it is what a try whose answer was
        lost has put; unchanged, the try did not arrive or met another one in flight (409), and is made again.
        """
        mode: PutMode = "create" if expected is None else {"e_tag": expected.tag}
        answer_lost = False
        for is_last in _tries(self.deadline_seconds):
            try:
                obstore.put(self.single_try, path, data, mode=mode)
                return True
            except BaseError as failure:
                refused = isinstance(failure, (AlreadyExistsError, PreconditionError))
                if is_last or not (refused or is_transient(failure)):
                    raise
                answer_lost = answer_lost or not refused
            found = self.find(path)
            if (found[1] if found is not None else None) != expected:
                return answer_lost and found is not None and found[0] == data
        raise AssertionError("the last try returns or raises")

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None) -> int:
        """Write an object from pieces: one request where they fit into a part, else a multipart upload."""
        sent_bytes = 0
        held: deque[Piece] = deque()

        def counted() -> Iterator[Piece]:
            nonlocal sent_bytes
            for chunk in chunks:
                sent_bytes += len(chunk)
                yield chunk

        def sent() -> Iterator[Piece]:
            while held:
                yield held.popleft()
            yield from pieces

        pieces = (chunk for chunk in counted() if chunk)
        for chunk in pieces:
            held.append(chunk)
            if sent_bytes > SMALLEST_PART_BYTES:
                break
        else:
            self.put(path, b"".join(held))
            return sent_bytes
        del chunk
        try:
            obstore.put(self.objects, path, sent(), chunk_size=part_bytes(size_bytes), max_concurrency=PARTS_IN_FLIGHT)
        except FileNotFoundError as failure:
            # Completing was done, its answer lost, and done again: MinIO says that there is no such upload any more.
            if not is_missing_upload(failure) or self._size_bytes(path) != sent_bytes:
                raise
        return sent_bytes

    def copy(self, source: str, target: str) -> None:
        """Write an object that is the same as another, by one request: S3 copies up to 5 GiB so."""
        obstore.copy(self.objects, source, target)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder."""
        for page in obstore.list(self.objects, prefix, chunk_size=_LIST_PAGE):
            for item in page:
                yield ObjectInfo(item["path"], item["size"], item["last_modified"])

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self._size_bytes(path) is not None

    def _size_bytes(self, path: str) -> int | None:
        try:
            return obstore.head(self.objects, path)["size"]
        except FileNotFoundError:
            return None

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            obstore.delete(self.objects, path)
        except FileNotFoundError as failure:
            if is_missing_bucket(failure):
                raise

    def free_bytes(self) -> int | None:
        """A bucket does not tell."""
        return None


def open_s3(name: str, prefix: str) -> Bucket:
    """A bucket of S3 or of a server that speaks its protocol; endpoint, region and credentials from the environment.

    :raises AirsmithError: `bad_recipe` where the environment's deadline is no number.
    """
    deadline_seconds = _deadline_seconds()
    endpoint, region = s3_place()
    place = endpoint or f"AWS S3 in {region}"

    def client(most_retries: int) -> S3Store:
        return S3Store(
            name,
            prefix=prefix or None,
            disable_bulk_delete=True,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=min(10.0, deadline_seconds)),
                "read_timeout": timedelta(seconds=deadline_seconds / 2),
                # No bound on a whole request: a large object's answer may take hours. The one above ends a stall.
                "timeout": timedelta(seconds=_NO_LIMIT_SECONDS),
            },
            retry_config={
                "max_retries": most_retries,
                "retry_timeout": timedelta(seconds=deadline_seconds),
                "backoff": {
                    "init_backoff": timedelta(seconds=_FIRST_PAUSE_SECONDS),
                    "max_backoff": timedelta(seconds=_LONGEST_PAUSE_SECONDS),
                    "base": 2,
                },
            },
        )

    uri = f"s3://{name}/{prefix}".rstrip("/")
    return Bucket(f"{uri} at {place}", client(10_000), client(0), deadline_seconds)


def s3_place() -> tuple[str, str]:
    """Endpoint and region of S3 from the environment; the endpoint is empty where it is AWS's own."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def open_memory(name: str) -> Bucket:
    """A store in this process's memory, shared by all who open the same name: for tests."""
    objects = _memory_stores.setdefault(name, MemoryStore())
    return Bucket(f"memory://{name}", objects, objects, _deadline_seconds())


def part_bytes(size_bytes: int | None) -> int:
    """Size of a multipart upload's parts: at least 8 MiB, and as much as keeps the parts under S3's 10,000.

    :param size_bytes: size of the whole; None where it is not known: then up to 78 GiB fit.
    """
    return max(SMALLEST_PART_BYTES, -(-(size_bytes or 0) // MOST_PARTS))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _tries(deadline_seconds: float) -> Iterator[bool]:
    """One item per try, True for the last one, with growing pauses between them."""
    until = time.monotonic() + deadline_seconds
    pause_seconds = _FIRST_PAUSE_SECONDS
    while time.monotonic() < until:
        yield False
        time.sleep(random.uniform(0, min(pause_seconds, max(0.0, until - time.monotonic()))))
        pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
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
            f"{DEADLINE_VARIABLE} is {text!r}, which is no number of seconds.",
            f"Set it to how long a request to the store may be tried; unset, it is {DEFAULT_DEADLINE_SECONDS:.0f}.",
        )
    return seconds
