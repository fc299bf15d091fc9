"""A conditional put on S3 has exactly one winner, even if responses are lost."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.wrappers import Response

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.s3_faults import Faults, Respond, apply_and_return_500, error_response, is_conditional_put


@pytest.fixture
def store(s3_uri: str) -> Store:
    return Store.open(s3_uri)


def test_a_conflict_is_retried(store: Store, s3_server: Any) -> None:
    s3_server.fault = Faults(
        is_conditional_put, lambda real: error_response(409, "ConditionalRequestConflict"), times=2
    )
    assert store.create("a", b"1")
    _, version = store.read_with_version("a")
    s3_server.fault = Faults(
        is_conditional_put, lambda real: error_response(409, "ConditionalRequestConflict"), times=2
    )
    assert store.compare_and_swap("a", b"2", version)
    assert store.read("a") == b"2"


def test_an_applied_put_whose_response_is_lost_succeeds(store: Store, s3_server: Any) -> None:
    faults = s3_server.fault = Faults(is_conditional_put, apply_and_return_500, times=1)
    assert store.create("a", b"1")
    assert faults.times == 0
    _, version = store.read_with_version("a")
    faults.times = 1
    assert store.compare_and_swap("a", b"2", version)
    assert faults.times == 0
    assert not store.create("a", b"1")
    assert not store.compare_and_swap("a", b"3", version)


def test_a_put_that_was_not_applied_is_retried(store: Store, s3_server: Any) -> None:
    s3_server.fault = Faults(is_conditional_put, lambda real: error_response(500, "InternalError"), times=2)
    assert store.create("a", b"1")
    assert store.read("a") == b"1"


def test_a_put_fails_if_another_writer_wins_during_the_retry(store: Store, s3_uri: str, s3_server: Any) -> None:
    def another_writer_wins(real: Respond) -> Response:
        s3_server.fault = None
        assert Store.open(s3_uri).create("a", b"theirs")
        return error_response(500, "InternalError")

    s3_server.fault = Faults(is_conditional_put, another_writer_wins)
    assert not store.create("a", b"ours")
    assert store.read("a") == b"theirs"


@pytest.mark.usefixtures("short_deadline")
def test_a_server_that_refuses_every_conditional_put_is_an_error(s3_uri: str, s3_server: Any) -> None:
    s3_server.fault = Faults(is_conditional_put, lambda real: error_response(412, "PreconditionFailed"))
    with pytest.raises(AirsmithError, match="PreconditionFailed") as failure:
        Store.open(s3_uri).create("a", b"1")
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE
