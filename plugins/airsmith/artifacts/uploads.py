"""S3 operations that obstore lacks: listing and aborting incomplete uploads, and copying objects above 5 GiB.

No listing of objects shows incomplete uploads, but they occupy space until they are aborted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from airsmith.artifacts.bucket import s3_location
from airsmith.artifacts.folder import Folder
from airsmith.artifacts.layout import STAGING_PREFIX
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind

MAX_COPY_BYTES = 5 * 2**30
"""Maximum object size that S3 copies in one request, and maximum size of a part of a copy."""

_COPIED_PART_BYTES = 2**30
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_MISSING = ("NoSuchUpload", "404")


@dataclass(frozen=True)
class Upload:
    """An incomplete upload.

    :param path: of the object; in a local folder, of the hidden file.
    :param id: the server's upload id; empty in a local folder.
    :param started_at: start time by the store's clock.
    """

    path: str
    id: str
    started_at: datetime


@dataclass(frozen=True)
class UploadedParts:
    """The parts that an upload has received so far.

    :param last_part_at: time of the last part by the store's clock.
    """

    size_bytes: int
    last_part_at: datetime


class Uploads(Protocol):
    """The incomplete uploads of a store."""

    def list(self) -> Iterator[Upload]:
        """List all incomplete uploads."""

    def parts(self, upload: Upload) -> UploadedParts:
        """The parts that an upload has received."""

    def abort(self, upload: Upload) -> None:
        """Abort an upload and delete its parts; an upload that no longer exists is not an error."""


def open_uploads(store: Store) -> Uploads:
    """Open the incomplete uploads of a store.

    :raises AirsmithError: `internal` if boto3 is not installed; `airsmith[airflow]` and every image include it.
    """
    if store.uri.startswith("s3://"):
        return _S3Uploads.open(store)
    return _FolderUploads(store.objects) if isinstance(store.objects, Folder) else _NoUploads()


def copy_object(store: Store, source: str, target: str, size_bytes: int) -> None:
    """Copy an object of any size inside its store, without downloading it."""
    if store.uri.startswith("s3://") and size_bytes > MAX_COPY_BYTES:
        _S3Uploads.open(store).copy(source, target)
    else:
        store.copy(source, target)


@dataclass(frozen=True)
class _FolderUploads:
    """Hidden files in a folder that were never renamed to an object's path."""

    folder: Folder

    def list(self) -> Iterator[Upload]:
        for file in self.folder.root.rglob(f"{STAGING_PREFIX}*"):
            with suppress(FileNotFoundError):
                started_at = datetime.fromtimestamp(file.stat().st_ctime, timezone.utc)
                yield Upload(file.relative_to(self.folder.root).as_posix(), "", started_at)

    def parts(self, upload: Upload) -> UploadedParts:
        try:
            status = (self.folder.root / upload.path).stat()
        except FileNotFoundError:
            return UploadedParts(0, upload.started_at)
        return UploadedParts(status.st_size, datetime.fromtimestamp(status.st_mtime, timezone.utc))

    def abort(self, upload: Upload) -> None:
        self.folder.delete(upload.path)


class _NoUploads:
    """A store in memory has no incomplete uploads."""

    def list(self) -> Iterator[Upload]:
        return iter(())

    def parts(self, upload: Upload) -> UploadedParts:
        return UploadedParts(0, upload.started_at)

    def abort(self, upload: Upload) -> None:
        pass


@dataclass(frozen=True)
class _S3Uploads:
    """Multipart uploads of a bucket, by boto3: obstore cannot list them."""

    client: Any
    bucket: str
    prefix: str
    listed_prefix: str
    uri: str

    @classmethod
    def open(cls, store: Store) -> _S3Uploads:
        try:
            import boto3  # type: ignore[import-untyped]
            from botocore.config import Config  # type: ignore[import-untyped]
        except ImportError as error:
            raise AirsmithError(
                ErrorKind.INTERNAL,
                "The Python package boto3, which lists incomplete uploads, is not installed.",
                "Install airsmith[airflow].",
            ) from error
        bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
        endpoint, region = s3_location()
        options = Config(s3={"addressing_style": "path"} if endpoint else {}, retries={"mode": "standard"})
        client = boto3.client("s3", endpoint_url=endpoint or None, region_name=region, config=options)
        prefix = f"{prefix}/" if prefix else ""
        # MinIO lists the uploads of a bucket or of one object, but not of a folder.
        return cls(client, bucket, prefix, "" if endpoint else prefix, store.uri)

    def list(self) -> Iterator[Upload]:
        pages = self.client.get_paginator("list_multipart_uploads")
        with self._errors():
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.listed_prefix):
                for found in page.get("Uploads", ()):
                    if found["Key"].startswith(self.prefix):
                        path = found["Key"].removeprefix(self.prefix)
                        yield Upload(path, found["UploadId"], found["Initiated"])

    def parts(self, upload: Upload) -> UploadedParts:
        size_bytes, last_part_at = 0, upload.started_at
        with self._errors():
            for page in self.client.get_paginator("list_parts").paginate(**self._named(upload)):
                for part in page.get("Parts", ()):
                    size_bytes += part["Size"]
                    last_part_at = max(last_part_at, part["LastModified"])
        return UploadedParts(size_bytes, last_part_at)

    def abort(self, upload: Upload) -> None:
        with self._errors():
            self.client.abort_multipart_upload(**self._named(upload))

    def copy(self, source: str, target: str) -> None:
        """Copy an object in parts.

        :raises AirsmithError: `not_found` if the object does not exist.
        """
        from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

        parts = TransferConfig(multipart_threshold=_COPIED_PART_BYTES, multipart_chunksize=_COPIED_PART_BYTES)
        origin = {"Bucket": self.bucket, "Key": f"{self.prefix}{source}"}
        with self._errors(if_missing=self._missing(source)):
            self.client.copy(origin, self.bucket, f"{self.prefix}{target}", Config=parts)

    def _missing(self, path: str) -> AirsmithError:
        return AirsmithError(ErrorKind.NOT_FOUND, f"{path} does not exist in the store {self.uri}.", "Check the path.")

    def _named(self, upload: Upload) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}{upload.path}", "UploadId": upload.id}

    @contextmanager
    def _errors(self, if_missing: AirsmithError | None = None) -> Iterator[None]:
        """Raise an AirsmithError in place of boto3's.

        :param if_missing: error to raise if the object or upload does not exist; None to ignore that.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            yield
        except ClientError as failure:
            code = failure.response.get("Error", {}).get("Code", "")
            if code in _MISSING:
                if if_missing is None:
                    return
                raise if_missing from failure
            raise AirsmithError(
                ErrorKind.ACCESS_DENIED if code in _DENIED else ErrorKind.STORE_UNAVAILABLE,
                f"The store {self.uri} rejected a request about uploads: {failure}.",
                "Grant s3:GetObject, s3:PutObject, s3:ListBucketMultipartUploads, s3:ListMultipartUploadParts and "
                "s3:AbortMultipartUpload.",
            ) from failure
        except BotoCoreError as failure:
            raise AirsmithError(
                ErrorKind.STORE_UNAVAILABLE,
                f"A request about uploads to the store {self.uri} failed: {failure}.",
                f"Check that {os.environ.get('AWS_ENDPOINT_URL') or 'AWS'} is reachable, and check the credentials.",
            ) from failure
