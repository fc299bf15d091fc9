"""A store's clock that runs ahead, so that all objects are old."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.janitor import skip_pointer_grace, store_clock_shifter


@pytest.fixture
def advance_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the store's clock ahead by a time, given as to `timedelta`."""
    return store_clock_shifter(monkeypatch)


@pytest.fixture(autouse=True)
def _skip_pointer_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_pointer_grace(monkeypatch)
