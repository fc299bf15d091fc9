"""Stores to test against, and a clock that is far ahead of what they hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from store_fixtures import real_s3_uri, s3_environment, s3_server, s3_store, s3_uri, store, store_uri

from airsmith.artifacts.store import Store
from airsmith.janitor import inventory, reap

__all__ = ["real_s3_uri", "s3_environment", "s3_server", "s3_store", "s3_uri", "store", "store_uri"]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the store's clock be ahead, so that all that it holds is old."""
    real = inventory.store_time

    def ahead(**by: float) -> None:
        def shifted(store: Store) -> datetime:
            return real(store) + timedelta(**by)

        monkeypatch.setattr(inventory, "store_time", shifted)

    return ahead


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for stages that these tests do not run."""
    monkeypatch.setattr(reap, "POINTER_GRACE_SECONDS", 0.0)
