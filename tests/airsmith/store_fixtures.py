"""Stores to test against: a local folder, memory, and an S3 server on loopback; a real MinIO where one is named.

AIRSMITH_TEST_S3_ENDPOINT names an S3 server that the tests on S3 run against as well (its keys from AWS_*).
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.store import Store

BUCKET = "airsmith-test"
REAL_ENDPOINT = os.environ.get("AIRSMITH_TEST_S3_ENDPOINT", "")
S3_KINDS = ["s3", "minio"] if REAL_ENDPOINT else ["s3"]

Fault = Callable[[Any, Callable[[], Any]], Any]
"""From a werkzeug request and the way to the real answer to the answer that the client gets."""


class S3Server:
    """moto's S3 in this process, one request at a time: it decides conditional puts in several steps, S3 in one."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.fault: Fault | None = None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        handler = type("Handler", (WSGIRequestHandler,), {"log_request": lambda *_: None})
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        from werkzeug.wrappers import Request, Response

        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:
            return Response(status=400)(environ, start_response)
        environ["wsgi.input"] = BytesIO(body)

        def real() -> Response:
            environ["wsgi.input"].seek(0)
            with self._lock:
                return Response.from_app(self._app, environ)

        request = Request(environ, populate_request=False)
        answer = self.fault(request, real) if self.fault is not None else real()
        return answer(environ, start_response)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point this process's S3 at an endpoint."""

    def point(endpoint: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for name, value in (
            ("ACCESS_KEY_ID", "minioadmin"),
            ("SECRET_ACCESS_KEY", "minioadmin"),
            ("REGION", "us-east-1"),
        ):
            monkeypatch.setenv(f"AWS_{name}", os.environ.get(f"AWS_{name}", value))

    return point


def make_bucket(endpoint: str) -> None:
    import boto3

    keys = {
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    client = boto3.client("s3", endpoint_url=endpoint, region_name=os.environ["AWS_REGION"], **keys)
    if BUCKET not in (bucket["Name"] for bucket in client.list_buckets()["Buckets"]):
        client.create_bucket(Bucket=BUCKET)


@pytest.fixture
def s3_uri(s3_server: S3Server, s3_environment: Callable[[str], None]) -> Iterator[str]:
    """A fresh place on the S3 server of this process, whose answers a test may spoil (`s3_server.fault`)."""
    s3_environment(s3_server.endpoint)
    make_bucket(s3_server.endpoint)
    yield f"s3://{BUCKET}/{uuid.uuid4().hex}/a prefix"
    s3_server.fault = None


@pytest.fixture
def real_s3_uri(s3_environment: Callable[[str], None]) -> Iterator[str]:
    s3_environment(REAL_ENDPOINT)
    make_bucket(REAL_ENDPOINT)
    uri = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    yield uri
    store = Store.open(uri)
    for info in list(store.list("")):
        store.delete(info.path)


def uri_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "memory":
        return f"memory://{uuid.uuid4().hex}"
    if kind == "file":
        return f"file://{tmp_path}/a store"
    fixture = {"s3": "s3_uri", "minio": "real_s3_uri"}[kind]
    return str(request.getfixturevalue(fixture))


@pytest.fixture(params=["file", "memory", *S3_KINDS])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty store of each kind."""
    return uri_of(request.param, request, tmp_path)


@pytest.fixture
def store(store_uri: str) -> Store:
    return Store.open(store_uri)


@pytest.fixture(params=S3_KINDS)
def s3_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open(uri_of(request.param, request, tmp_path))
