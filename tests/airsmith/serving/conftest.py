"""A laptop for each test, its servers stopped at the end; stores of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import Machine
from store_fixtures import real_s3_uri, s3_environment, s3_server, s3_store, s3_uri, store, store_uri

from airsmith.serving.local.endpoint import stop_all

__all__ = ["real_s3_uri", "s3_environment", "s3_server", "s3_store", "s3_uri", "store", "store_uri"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, tmp_path / "venv/bin/python")
    machine.python.parent.mkdir(parents=True)
    machine.server_that()
    yield machine
    stop_all(machine.settings())


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how long a server may take to start and to stop."""

    def use(*, start_seconds: float = 600, stop_seconds: float = 20) -> None:
        monkeypatch.setattr("airsmith.serving.local.server.START_TIMEOUT_SECONDS", start_seconds)
        monkeypatch.setattr("airsmith.serving.local.server.STOP_GRACE_SECONDS", stop_seconds)

    return use
