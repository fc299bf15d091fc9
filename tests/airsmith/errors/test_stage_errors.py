"""Every error kind has an exception class, and is retried as the retry table defines."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest
from airflow.sdk import RetryAction

from airsmith.airflow.retry_policy import MAX_DELAY, RetryByKind
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.retries import RETRIES, Retry
from airsmith.errors.stage_errors import StageError, as_stage_error

POLICY = RetryByKind(timedelta(seconds=10))


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_has_an_exception_class(kind: ErrorKind):
    error = as_stage_error(AirsmithError(kind, "message", "hint"))
    assert type(error) is not StageError
    assert (error.kind, error.message, error.hint) == (kind, "message", "hint")
    assert as_stage_error(error) is error
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), "message hint")


def test_the_documentation_page_of_an_error_is_named_after_its_kind():
    assert AirsmithError(ErrorKind.DISK_FULL, "message").page == "docs/errors/disk_full.md"


def test_no_two_kinds_share_a_class():
    assert len({type(as_stage_error(AirsmithError(kind, ""))) for kind in ErrorKind}) == len(ErrorKind)


@pytest.mark.parametrize("kind", ErrorKind)
def test_the_retry_policy_follows_the_table(kind: ErrorKind):
    decision = POLICY.evaluate(AirsmithError(kind, ""), try_number=1, max_tries=3)
    expected = {
        Retry.NEVER: (RetryAction.FAIL, None),
        Retry.AT_ONCE: (RetryAction.RETRY, timedelta(0)),
        Retry.BACK_OFF: (RetryAction.RETRY, timedelta(seconds=10)),
    }
    assert (decision.action, decision.retry_delay) == expected[RETRIES[kind]]
    assert kind.value in (decision.reason or "")


def test_the_delay_doubles_up_to_a_maximum():
    error = AirsmithError(ErrorKind.HUB_UNAVAILABLE, "")
    delays = [POLICY.evaluate(error, try_number, 100).retry_delay for try_number in (1, 2, 3, 1000)]
    assert delays == [timedelta(seconds=10), timedelta(seconds=20), timedelta(seconds=40), MAX_DELAY]


def test_other_exceptions_follow_airflows_default():
    assert POLICY.evaluate(TimeoutError(), 1, 3).action is RetryAction.DEFAULT
