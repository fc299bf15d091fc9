"""A store's clock that runs ahead, so that all objects are old."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from airsmith.artifacts.store import Store
from airsmith.janitor import inventory, reap


@pytest.fixture
def advance_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the store's clock ahead by a time, given as to `timedelta`."""
    real = inventory.store_time

    def advance(**by: float) -> None:
        def shifted(store: Store) -> datetime:
            return real(store) + timedelta(**by)

        monkeypatch.setattr(inventory, "store_time", shifted)

    return advance


@pytest.fixture(autouse=True)
def _no_settling_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stage runs beside these tests, so the janitor waits for none."""
    monkeypatch.setattr(reap, "SETTLING_SECONDS", 0.0)
