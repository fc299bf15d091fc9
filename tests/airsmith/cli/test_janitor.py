"""`airsmith janitor` says what nobody needs, and removes what it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner
from workshop import artifact, half_published, is_there, new_run

from airsmith.artifacts.store import Store
from airsmith.cli.main import app
from airsmith.errors import AirsmithError


@pytest.fixture
def known_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store.open(f"file://{tmp_path}/store")
    monkeypatch.setenv("AIRSMITH_STORE", store.uri)
    return store


def test_it_tells_what_there_is_and_how_large(known_store: Store, later: Callable[..., None]) -> None:
    half_published(known_store, "artifacts/model/aa")
    artifact(known_store, "tokens", "bb")
    later(days=100)
    told = CliRunner().invoke(app, ["janitor"])
    assert told.exit_code == 0
    assert "Half-published folders: would remove 1 (2 objects), 8 B" in told.output
    assert "  artifacts/model/aa/attempt=lost: never published, last written 100 days ago, 8 B" in told.output
    assert "Unused artifacts: would remove 1 (3 objects)" in told.output
    assert "Old checkpoints: none" in told.output
    assert is_there(known_store, "artifacts/model/aa")


def test_it_removes_what_it_is_told_to(known_store: Store, later: Callable[..., None]) -> None:
    half_published(known_store, "artifacts/model/aa")
    artifact(known_store, "tokens", "bb")
    later(days=100)
    told = CliRunner().invoke(app, ["janitor", "--delete", "unfinished", "--delete", "caches"])
    assert "Half-published folders: removed 1 (2 objects), 8 B" in told.output
    assert not is_there(known_store, "artifacts")


def test_a_run_that_has_not_ended_is_taken_for_at_work(known_store: Store, later: Callable[..., None]) -> None:
    new_run(known_store, "begun")
    later(days=29)
    assert CliRunner().invoke(app, ["janitor"]).exit_code == 0


def test_an_unknown_kind_is_named(known_store: Store) -> None:
    told = CliRunner().invoke(app, ["janitor", "--delete", "everything"])
    assert isinstance(told.exception, AirsmithError)
    assert "'everything'" in told.exception.message
    assert "checkpoints" in told.exception.hint
