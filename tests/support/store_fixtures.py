"""Fixtures of both sides: empty stores of every kind, and a host of local endpoints."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airsmith.artifacts.store import Store
from airsmith.serving.local.endpoint import stop_all
from tests.support.local_endpoints import LocalHost, new_local_host
from tests.support.stores import BUCKET, REAL_ENDPOINT, S3_KINDS, S3Server, make_bucket, s3_variables


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def use_s3(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Points this process's S3 clients at an endpoint."""

    def use(endpoint: str) -> None:
        for name, value in s3_variables(endpoint).items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def s3_uri(s3_server: S3Server, use_s3: Callable[[str], None]) -> Iterator[str]:
    """An empty store on the S3 server of this process, whose responses a test may replace (`s3_server.fault`)."""
    use_s3(s3_server.endpoint)
    make_bucket(s3_server.endpoint)
    yield f"s3://{BUCKET}/{uuid.uuid4().hex}/a prefix"
    s3_server.fault = None


@pytest.fixture
def real_s3_uri(use_s3: Callable[[str], None]) -> Iterator[str]:
    """An empty store on the server that AIRSMITH_TEST_S3_ENDPOINT names."""
    use_s3(REAL_ENDPOINT)
    make_bucket(REAL_ENDPOINT)
    uri = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    yield uri
    store = Store.open(uri)
    for info in list(store.list("")):
        store.delete(info.path)


def store_uri_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "memory":
        return f"memory://{uuid.uuid4().hex}"
    if kind == "file":
        return f"file://{tmp_path}/a store"
    fixture = {"s3": "s3_uri", "minio": "real_s3_uri"}[kind]
    return str(request.getfixturevalue(fixture))


@pytest.fixture(params=["file", "memory", *S3_KINDS])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, of each kind."""
    return store_uri_of(request.param, request, tmp_path)


@pytest.fixture
def store(store_uri: str) -> Store:
    return Store.open(store_uri)


@pytest.fixture(params=S3_KINDS)
def s3_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open(store_uri_of(request.param, request, tmp_path))


@pytest.fixture
def local_host(tmp_path: Path) -> Iterator[LocalHost]:
    """An empty store and the stand-in server; the servers stop when the test finishes."""
    host = new_local_host(tmp_path)
    yield host
    stop_all(host.settings())
