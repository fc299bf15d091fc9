"""What of S3 obstore does not offer: uploads that were begun and never ended, and copies of objects above 5 GiB.

No listing shows such uploads, but they take room until somebody removes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from airsmith.artifacts.bucket import s3_place
from airsmith.artifacts.folder import Folder
from airsmith.artifacts.layout import STAGING_PREFIX
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind

LARGEST_COPY_BYTES = 5 * 2**30
"""What S3 copies in one request; parts of a copy may be as large."""

_COPIED_PART_BYTES = 2**30
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_GONE = ("NoSuchUpload", "404")


@dataclass(frozen=True)
class Upload:
    """An upload that has not ended.

    :param path: of the object that it would become; in a local folder, of the hidden file that it is until then.
    :param id: the server's, empty in a local folder.
    :param begun: by the store's clock.
    """

    path: str
    id: str
    begun: datetime


@dataclass(frozen=True)
class UploadedParts:
    """What an upload has brought so far.

    :param newest: when its last part came, by the store's clock.
    """

    size_bytes: int
    newest: datetime


class Uploads(Protocol):
    """The uploads of one store."""

    def list(self) -> Iterator[Upload]:
        """All that have not ended."""

    def parts(self, upload: Upload) -> UploadedParts:
        """How far an upload is."""

    def abort(self, upload: Upload) -> None:
        """End an upload and remove its parts; one that has ended meanwhile is no error."""


def open_uploads(store: Store) -> Uploads:
    """What knows a store's uploads.

    :raises AirsmithError: `internal` where boto3 is not installed; it comes with `airsmith[airflow]` and every image.
    """
    if store.uri.startswith("s3://"):
        return _S3Uploads.open(store)
    return _FolderUploads(store.objects) if isinstance(store.objects, Folder) else _NoUploads()


def copy_object(store: Store, source: str, target: str, size_bytes: int) -> None:
    """Write an object that is the same as another of its store, of any size, without its bytes passing here."""
    if store.uri.startswith("s3://") and size_bytes > LARGEST_COPY_BYTES:
        _S3Uploads.open(store).copy(source, target)
    else:
        store.copy(source, target)


@dataclass(frozen=True)
class _FolderUploads:
    """Files under a folder that were not renamed to their own names."""

    folder: Folder

    def list(self) -> Iterator[Upload]:
        for file in self.folder.root.rglob(f"{STAGING_PREFIX}*"):
            with suppress(FileNotFoundError):
                begun = datetime.fromtimestamp(file.stat().st_ctime, timezone.utc)
                yield Upload(file.relative_to(self.folder.root).as_posix(), "", begun)

    def parts(self, upload: Upload) -> UploadedParts:
        try:
            status = (self.folder.root / upload.path).stat()
        except FileNotFoundError:
            return UploadedParts(0, upload.begun)
        return UploadedParts(status.st_size, datetime.fromtimestamp(status.st_mtime, timezone.utc))

    def abort(self, upload: Upload) -> None:
        self.folder.delete(upload.path)


class _NoUploads:
    """Memory holds none."""

    def list(self) -> Iterator[Upload]:
        return iter(())

    def parts(self, upload: Upload) -> UploadedParts:
        return UploadedParts(0, upload.begun)

    def abort(self, upload: Upload) -> None:
        pass


@dataclass(frozen=True)
class _S3Uploads:
    """Multipart uploads of a bucket, through boto3: obstore lists none."""

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
                ErrorKind.INTERNAL, "boto3, which lists unfinished uploads, is missing.", "Install airsmith[airflow]."
            ) from error
        bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
        endpoint, region = s3_place()
        options = Config(s3={"addressing_style": "path"} if endpoint else {}, retries={"mode": "standard"})
        client = boto3.client("s3", endpoint_url=endpoint or None, region_name=region, config=options)
        prefix = f"{prefix}/" if prefix else ""
        # MinIO lists the uploads of a whole bucket or of one object, not those under a folder.
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
        size_bytes, newest = 0, upload.begun
        with self._errors():
            for page in self.client.get_paginator("list_parts").paginate(**self._named(upload)):
                for part in page.get("Parts", ()):
                    size_bytes += part["Size"]
                    newest = max(newest, part["LastModified"])
        return UploadedParts(size_bytes, newest)

    def abort(self, upload: Upload) -> None:
        with self._errors():
            self.client.abort_multipart_upload(**self._named(upload))

    def copy(self, source: str, target: str) -> None:
        """Copy an object part by part.

        :raises AirsmithError: `not_found` where there is none.
        """
        from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

        parts = TransferConfig(multipart_threshold=_COPIED_PART_BYTES, multipart_chunksize=_COPIED_PART_BYTES)
        origin = {"Bucket": self.bucket, "Key": f"{self.prefix}{source}"}
        with self._errors(gone=self._missing(source)):
            self.client.copy(origin, self.bucket, f"{self.prefix}{target}", Config=parts)

    def _missing(self, path: str) -> AirsmithError:
        return AirsmithError(ErrorKind.NOT_FOUND, f"There is no {path} in the store {self.uri}.", "Check the path.")

    def _named(self, upload: Upload) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}{upload.path}", "UploadId": upload.id}

    @contextmanager
    def _errors(self, gone: AirsmithError | None = None) -> Iterator[None]:
        """Raise an AirsmithError in place of boto3's.

        :param gone: what to raise where the thing is not there; None where that is no error.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            yield
        except ClientError as failure:
            code = failure.response.get("Error", {}).get("Code", "")
            if code in _GONE:
                if gone is None:
                    return
                raise gone from failure
            raise AirsmithError(
                ErrorKind.ACCESS_DENIED if code in _DENIED else ErrorKind.STORE_UNAVAILABLE,
                f"The store {self.uri} refused what was asked of its uploads: {failure}.",
                "Allow s3:GetObject, s3:PutObject, s3:ListBucketMultipartUploads, s3:ListMultipartUploadParts and "
                "s3:AbortMultipartUpload.",
            ) from failure
        except BotoCoreError as failure:
            raise AirsmithError(
                ErrorKind.STORE_UNAVAILABLE,
                f"The store {self.uri} did not do what was asked of its uploads: {failure}.",
                f"Check that {os.environ.get('AWS_ENDPOINT_URL') or 'AWS'} is reached from here, and its credentials.",
            ) from failure
