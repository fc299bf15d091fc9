"""How a store on S3 handles error responses, timeouts and corrupt content."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from werkzeug.wrappers import Request, Response

from airsmith.artifacts.store import MEBIBYTE, Store
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.s3_faults import Faults, Respond, any_request, error_response


@pytest.fixture
def store(s3_uri: str) -> Store:
    return Store.open(s3_uri)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", ErrorKind.ACCESS_DENIED),
        (403, "InvalidAccessKeyId", ErrorKind.ACCESS_DENIED),
        (401, "Unauthorized", ErrorKind.ACCESS_DENIED),
        (404, "NoSuchBucket", ErrorKind.NOT_FOUND),
        (503, "SlowDown", ErrorKind.STORE_UNAVAILABLE),
        (429, "TooManyRequests", ErrorKind.STORE_UNAVAILABLE),
        (507, "XMinioStorageFull", ErrorKind.DISK_FULL),
        (400, "KeyTooLongError", ErrorKind.VERIFICATION_FAILED),
    ],
)
@pytest.mark.usefixtures("short_deadline")
def test_an_error_response_maps_to_its_kind(
    s3_uri: str, s3_server: Any, status: int, code: str, kind: ErrorKind
) -> None:
    store = Store.open(s3_uri)
    s3_server.fault = Faults(any_request, lambda real: error_response(status, code))
    calls = {
        "write": lambda: store.write("a/b", b"1"),
        "create": lambda: store.create("a/b", b"1"),
        "upload": lambda: store.upload("a/b", [b"1" * MEBIBYTE] * 17),
        "read": lambda: store.read("a/b"),
        "list": lambda: list(store.list("a")),
        "delete": lambda: store.delete("a/b"),
    }
    with ThreadPoolExecutor(len(calls)) as pool:
        errors = dict(zip(calls, pool.map(error_of, calls.values()), strict=True))
    assert {name: error and error.kind for name, error in errors.items()} == dict.fromkeys(calls, kind)
    assert all(error and store.uri in error.message and error.hint for error in errors.values())


def error_of(call: Callable[[], object]) -> AirsmithError | None:
    try:
        call()
    except AirsmithError as error:
        return error
    return None


def test_a_missing_bucket_is_an_error_in_every_call(s3_uri: str, s3_server: Any) -> None:
    store = Store.open("s3://no-such-bucket/prefix")
    for call in (
        lambda: store.find("a"),
        lambda: store.read("a"),
        lambda: list(store.list("")),
        lambda: store.create("a", b""),
        lambda: store.write("a", b""),
        lambda: store.upload("a", [b"1" * MEBIBYTE] * 17),
        lambda: store.delete("a"),
    ):
        with pytest.raises(AirsmithError, match="bucket of the store s3://no-such-bucket/prefix") as failure:
            call()
        assert failure.value.kind is ErrorKind.NOT_FOUND
        assert s3_server.endpoint in failure.value.message


@pytest.mark.usefixtures("short_deadline")
def test_a_refused_connection_names_the_endpoint(use_s3: Callable[[str], None]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        use_s3(endpoint)
        with pytest.raises(AirsmithError, match="Connection refused") as failure:
            Store.open("s3://bucket/prefix").read("a")
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert f"s3://bucket/prefix at {endpoint}" in failure.value.message
    assert "AWS_ENDPOINT_URL" in failure.value.hint


@pytest.mark.usefixtures("short_deadline")
def test_a_server_that_does_not_respond_times_out(use_s3: Callable[[str], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_s3(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(AirsmithError, match="no response before the timeout") as failure:
            Store.open("s3://bucket").create("a", b"1")
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE


@pytest.mark.usefixtures("short_deadline")
def test_missing_credentials_are_reported(monkeypatch: pytest.MonkeyPatch, s3_uri: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(AirsmithError, match="no credentials") as failure:
        Store.open(s3_uri).read("a")
    assert failure.value.kind is ErrorKind.ACCESS_DENIED
    assert "AWS_ACCESS_KEY_ID" in failure.value.hint


def test_opening_a_store_sends_no_request(s3_uri: str, s3_server: Any) -> None:
    faults = s3_server.fault = Faults(any_request, lambda real: error_response(500, "InternalError"))
    Store.open(s3_uri)
    assert faults.requests == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_short_outage_is_retried(store: Store, s3_server: Any, status: int) -> None:
    for call in (
        lambda: store.write("a", b"1"),
        lambda: store.create("b", b"1"),
        lambda: store.upload("c", [b"1" * MEBIBYTE] * 17),
        lambda: store.read("a"),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
    ):
        s3_server.fault = Faults(any_request, lambda real: error_response(status, "SlowDown"), times=2)
        call()


def corrupt_reads(bodies: list[bytes], tag: str) -> Callable[[Request, Respond], Response]:
    """Respond to each GET with the next body, and repeat the last one."""

    def respond(request: Request, real: Respond) -> Response:
        if request.method != "GET":
            return real()
        return Response(bodies.pop(0) if len(bodies) > 1 else bodies[0], headers={"ETag": f'"{tag}"'})

    return respond


def test_a_read_that_differs_from_its_etag_is_retried(store: Store, s3_server: Any) -> None:
    s3_server.fault = corrupt_reads([b"nanifest", b"manifest"], hashlib.md5(b"manifest").hexdigest())
    assert store.read("a") == b"manifest"


def test_an_etag_that_is_not_a_content_hash_is_accepted(store: Store, s3_server: Any) -> None:
    """S3 returns such an ETag if KMS encrypts the object."""
    s3_server.fault = corrupt_reads([b"manifest"], "0" * 32)
    assert store.read("a") == b"manifest"


def test_content_that_differs_on_every_read_is_refused(store: Store, s3_server: Any) -> None:
    s3_server.fault = corrupt_reads([bytes([number]) for number in range(9)], "0" * 32)
    with pytest.raises(AirsmithError, match="differs on every read") as failure:
        store.read("a")
    assert failure.value.kind is ErrorKind.VERIFICATION_FAILED
