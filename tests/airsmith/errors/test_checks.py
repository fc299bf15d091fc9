"""Several failures are told together, each once, with a kind that decides rightly about retries."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.checks import check_all

UNAVAILABLE = AirsmithError(ErrorKind.STORE_UNAVAILABLE, "The store is away.", "Wait.")
DENIED = AirsmithError(ErrorKind.ACCESS_DENIED, "The Hub says no.", "Ask.")


def failing(error: AirsmithError) -> Callable[[], None]:
    def check() -> None:
        raise error

    return check


def test_nothing_is_raised_where_all_is_well():
    check_all([lambda: None, lambda: None])


def test_one_failure_stays_as_it_is():
    with pytest.raises(AirsmithError) as caught:
        check_all([lambda: None, failing(DENIED)])
    assert caught.value is DENIED


def test_every_check_is_made_and_what_no_retry_helps_against_decides():
    with pytest.raises(AirsmithError) as caught:
        check_all([failing(UNAVAILABLE), failing(DENIED), failing(UNAVAILABLE)])
    assert str(caught.value) == "2 things are wrong:\n1. The store is away. Wait.\n2. The Hub says no. Ask."
    assert caught.value.kind is ErrorKind.ACCESS_DENIED
    assert AirsmithError.from_json_line(caught.value.to_json_line()) is not None
