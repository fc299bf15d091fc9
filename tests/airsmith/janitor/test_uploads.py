"""Uploads that nobody completed are found and aborted; those that go on are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from store_fixtures import BUCKET
from werkzeug.wrappers import Response
from workshop import half_published, tidy

from airsmith.artifacts.folder import Folder
from airsmith.artifacts.layout import STAGING_PREFIX
from airsmith.artifacts.store import MEBIBYTE, Store
from airsmith.artifacts.uploads import open_uploads
from airsmith.errors import AirsmithError, ErrorKind

Later = Callable[..., None]
ATTEMPT = "artifacts/model/aa/attempt=lost"


@pytest.fixture
def client(s3_store: Store) -> Any:
    return boto3.client("s3", config=Config(s3={"addressing_style": "path"}), region_name="us-east-1")


def begin(client: Any, store: Store, path: str, parts: int = 1) -> str:
    """An upload whose writer dies."""
    key = f"{store.uri.removeprefix(f's3://{BUCKET}/')}/{path}"
    upload = str(client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"])
    for number in range(parts):
        client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number + 1, Body=b"x" * 5 * MEBIBYTE)
    return upload


def test_an_abandoned_upload_is_told_with_its_bytes_and_aborted(s3_store: Store, client: Any, later: Later) -> None:
    upload = begin(client, s3_store, f"{ATTEMPT}/weights", parts=2)
    (listed,) = open_uploads(s3_store).list()
    assert (listed.path, listed.id) == (f"{ATTEMPT}/weights", upload)
    later(hours=25)
    (told,) = tidy(s3_store, kinds_to_delete=())["uploads"].found
    assert (told.name, told.size_bytes) == (f"{ATTEMPT}/weights", 10 * MEBIBYTE)
    assert len(list(open_uploads(s3_store).list())) == 1
    tidy(s3_store)
    assert not list(open_uploads(s3_store).list())


def test_a_young_upload_goes_on_and_keeps_its_folder(s3_store: Store, client: Any, later: Later) -> None:
    half_published(s3_store, "artifacts/model/aa")
    begin(client, s3_store, f"{ATTEMPT}/more")
    later(hours=23)
    assert not tidy(s3_store)["uploads"].found
    assert not tidy(s3_store)["unfinished"].found
    assert len(list(open_uploads(s3_store).list())) == 1


def test_an_upload_beside_the_store_is_none_of_ours(s3_store: Store, client: Any, later: Later) -> None:
    begin(client, Store.open(f"{s3_store.uri}-of-others"), "artifacts/model/aa/attempt=1/weights")
    begin(client, s3_store, "elsewhere/of/ours/x")
    later(days=100)
    assert not tidy(s3_store)["uploads"].found


def test_aborting_what_has_ended_is_no_error(s3_store: Store, client: Any) -> None:
    begin(client, s3_store, f"{ATTEMPT}/weights")
    uploads = open_uploads(s3_store)
    (upload,) = uploads.list()
    uploads.abort(upload)
    uploads.abort(upload)
    assert uploads.parts(upload).size_bytes == 0


def test_a_refusal_says_which_rights_are_missing(s3_uri: str, s3_server: Any) -> None:
    s3_server.fault = lambda request, real: Response("<Error><Code>AccessDenied</Code></Error>", 403)
    with pytest.raises(AirsmithError, match="AccessDenied") as refused:
        list(open_uploads(Store.open(s3_uri)).list())
    assert refused.value.kind is ErrorKind.ACCESS_DENIED
    assert "s3:ListBucketMultipartUploads" in refused.value.hint


def test_a_file_that_a_dead_writer_left_hidden_in_a_folder_goes(tmp_path: Any, later: Later) -> None:
    store = Store.open(f"file://{tmp_path}/store")

    def dies() -> Iterator[bytes]:
        yield b"half"
        folder = tmp_path / "store" / ATTEMPT
        (hidden,) = folder.glob(f"{STAGING_PREFIX}*")
        hidden.rename(folder / f"{STAGING_PREFIX}kept")
        raise ValueError

    with pytest.raises(ValueError):
        store.upload(f"{ATTEMPT}/weights", dies())
    assert isinstance(store.objects, Folder)
    later(hours=25)
    (removed,) = tidy(store)["uploads"].deleted
    assert removed.name == f"{ATTEMPT}/{STAGING_PREFIX}kept"
    assert not (tmp_path / "store" / "artifacts").exists()


def test_a_store_in_memory_has_none(store: Store) -> None:
    assert not list(open_uploads(store).list())
