"""Several failures are reported together, each once, with the kind that prevents a useless retry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.checks import check_all

UNAVAILABLE = AirsmithError(ErrorKind.STORE_UNAVAILABLE, "The store is unavailable.", "Wait.")
DENIED = AirsmithError(ErrorKind.ACCESS_DENIED, "The Hub denied access.", "Request it.")


def failing_check(error: AirsmithError) -> Callable[[], None]:
    def check() -> None:
        raise error

    return check


def test_passing_checks_raise_nothing():
    check_all([lambda: None, lambda: None])


def test_a_single_failure_is_raised_unchanged():
    with pytest.raises(AirsmithError) as caught:
        check_all([lambda: None, failing_check(DENIED)])
    assert caught.value is DENIED


def test_all_checks_run_and_the_kind_that_is_not_retried_wins():
    with pytest.raises(AirsmithError) as caught:
        check_all([failing_check(UNAVAILABLE), failing_check(DENIED), failing_check(UNAVAILABLE)])
    assert (
        str(caught.value)
        == "2 checks failed:\n1. The store is unavailable. Wait.\n2. The Hub denied access. Request it."
    )
    assert caught.value.kind is ErrorKind.ACCESS_DENIED
    assert AirsmithError.from_json_line(caught.value.to_json_line()) is not None
