"""Abandoned uploads are found and aborted; active ones are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from werkzeug.wrappers import Response

from airsmith.artifacts.folder import Folder
from airsmith.artifacts.layout import STAGING_PREFIX
from airsmith.artifacts.store import MEBIBYTE, Store
from airsmith.artifacts.uploads import open_uploads
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.janitor import tidy
from tests.support.runs import write_unpublished
from tests.support.stores import BUCKET

AdvanceClock = Callable[..., None]
ATTEMPT = "artifacts/model/aa/attempt=lost"


@pytest.fixture
def client(s3_store: Store) -> Any:
    return boto3.client("s3", config=Config(s3={"addressing_style": "path"}), region_name="us-east-1")


def start_upload(client: Any, store: Store, path: str, parts: int = 1) -> str:
    """Start an upload, and never complete it.

    :returns: its id.
    """
    key = f"{store.uri.removeprefix(f's3://{BUCKET}/')}/{path}"
    upload = str(client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"])
    for number in range(parts):
        client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number + 1, Body=b"x" * 5 * MEBIBYTE)
    return upload


def test_an_abandoned_upload_is_reported_with_its_size_and_aborted(
    s3_store: Store, client: Any, advance_clock: AdvanceClock
) -> None:
    upload = start_upload(client, s3_store, f"{ATTEMPT}/weights", parts=2)
    (listed,) = open_uploads(s3_store).list()
    assert (listed.path, listed.id) == (f"{ATTEMPT}/weights", upload)
    advance_clock(hours=25)
    (found,) = tidy(s3_store, kinds_to_delete=())["uploads"].found
    assert (found.name, found.size_bytes) == (f"{ATTEMPT}/weights", 10 * MEBIBYTE)
    assert len(list(open_uploads(s3_store).list())) == 1
    tidy(s3_store)
    assert not list(open_uploads(s3_store).list())


def test_a_young_upload_and_its_folder_are_kept(s3_store: Store, client: Any, advance_clock: AdvanceClock) -> None:
    write_unpublished(s3_store, "artifacts/model/aa")
    start_upload(client, s3_store, f"{ATTEMPT}/more")
    advance_clock(hours=23)
    assert not tidy(s3_store)["uploads"].found
    assert not tidy(s3_store)["unfinished"].found
    assert len(list(open_uploads(s3_store).list())) == 1


def test_an_upload_outside_the_store_is_ignored(s3_store: Store, client: Any, advance_clock: AdvanceClock) -> None:
    start_upload(client, Store.open(f"{s3_store.uri}-of-others"), "artifacts/model/aa/attempt=1/weights")
    start_upload(client, s3_store, "elsewhere/x")
    advance_clock(days=100)
    assert not tidy(s3_store)["uploads"].found


def test_aborting_an_aborted_upload_is_not_an_error(s3_store: Store, client: Any) -> None:
    start_upload(client, s3_store, f"{ATTEMPT}/weights")
    uploads = open_uploads(s3_store)
    (upload,) = uploads.list()
    uploads.abort(upload)
    uploads.abort(upload)
    assert uploads.parts(upload).size_bytes == 0


def test_a_refused_list_names_the_missing_permission(s3_uri: str, s3_server: Any) -> None:
    s3_server.fault = lambda request, real: Response("<Error><Code>AccessDenied</Code></Error>", 403)
    with pytest.raises(AirsmithError, match="AccessDenied") as refused:
        list(open_uploads(Store.open(s3_uri)).list())
    assert refused.value.kind is ErrorKind.ACCESS_DENIED
    assert "s3:ListBucketMultipartUploads" in refused.value.hint


def test_a_staging_file_of_a_dead_writer_is_removed(tmp_path: Any, advance_clock: AdvanceClock) -> None:
    store = Store.open(f"file://{tmp_path}/store")

    def fail_midway() -> Iterator[bytes]:
        yield b"half"
        folder = tmp_path / "store" / ATTEMPT
        (hidden,) = folder.glob(f"{STAGING_PREFIX}*")
        hidden.rename(folder / f"{STAGING_PREFIX}kept")
        raise ValueError

    with pytest.raises(ValueError):
        store.upload(f"{ATTEMPT}/weights", fail_midway())
    assert isinstance(store.objects, Folder)
    advance_clock(hours=25)
    (removed,) = tidy(store)["uploads"].deleted
    assert removed.name == f"{ATTEMPT}/{STAGING_PREFIX}kept"
    assert not (tmp_path / "store" / "artifacts").exists()


def test_an_empty_store_has_no_uploads(store: Store) -> None:
    assert not list(open_uploads(store).list())
