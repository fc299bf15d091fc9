"""Shorter timeouts of servers on this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def set_timeouts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how long a server may take to start and to stop."""

    def use(*, start_seconds: float = 600, stop_seconds: float = 20) -> None:
        monkeypatch.setattr("airsmith.serving.local.server.START_TIMEOUT_SECONDS", start_seconds)
        monkeypatch.setattr("airsmith.serving.local.server.STOP_GRACE_SECONDS", stop_seconds)

    return use
