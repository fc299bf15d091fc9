"""Stores with a short deadline."""

from __future__ import annotations

import pytest


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores opened from now on retry for one second."""
    monkeypatch.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", "1")
