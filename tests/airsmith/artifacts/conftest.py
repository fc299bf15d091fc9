"""Stores that give up soon."""

from __future__ import annotations

import pytest


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are opened from now on retry for one second only."""
    monkeypatch.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", "1")
