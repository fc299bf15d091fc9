"""Conditional puts on S3: exactly one winner, also where answers are lost."""

from __future__ import annotations

from typing import Any

import pytest
from s3_faults import Answer, Faults, applied_but_500, conditional_put, error_answer
from werkzeug.wrappers import Response

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind


@pytest.fixture
def store(s3_uri: str) -> Store:
    return Store.open(s3_uri)


def test_a_conflict_is_tried_again(store: Store, s3_server: Any) -> None:
    s3_server.fault = Faults(conditional_put, lambda real: error_answer(409, "ConditionalRequestConflict"), times=2)
    assert store.create("a", b"1")
    _, version = store.read_versioned("a")
    s3_server.fault = Faults(conditional_put, lambda real: error_answer(409, "ConditionalRequestConflict"), times=2)
    assert store.swap("a", b"2", version)
    assert store.read("a") == b"2"


def test_a_put_that_was_applied_and_whose_answer_was_lost_has_won(store: Store, s3_server: Any) -> None:
    faults = s3_server.fault = Faults(conditional_put, applied_but_500, times=1)
    assert store.create("a", b"1")
    assert faults.times == 0
    _, version = store.read_versioned("a")
    faults.times = 1
    assert store.swap("a", b"2", version)
    assert faults.times == 0
    assert not store.create("a", b"1")
    assert not store.swap("a", b"3", version)


def test_a_put_that_was_not_applied_and_whose_answer_was_lost_is_made_again(store: Store, s3_server: Any) -> None:
    s3_server.fault = Faults(conditional_put, lambda real: error_answer(500, "InternalError"), times=2)
    assert store.create("a", b"1")
    assert store.read("a") == b"1"


def test_a_put_that_somebody_else_won_meanwhile_is_lost(store: Store, s3_uri: str, s3_server: Any) -> None:
    def somebody_else_is_faster(real: Answer) -> Response:
        s3_server.fault = None
        assert Store.open(s3_uri).create("a", b"theirs")
        return error_answer(500, "InternalError")

    s3_server.fault = Faults(conditional_put, somebody_else_is_faster)
    assert not store.create("a", b"ours")
    assert store.read("a") == b"theirs"


@pytest.mark.usefixtures("short_deadline")
def test_a_server_that_refuses_every_conditional_put_is_given_up(s3_uri: str, s3_server: Any) -> None:
    s3_server.fault = Faults(conditional_put, lambda real: error_answer(412, "PreconditionFailed"))
    with pytest.raises(AirsmithError, match="PreconditionFailed") as failure:
        Store.open(s3_uri).create("a", b"1")
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE
