"""`airsmith janitor` reports what is unused, and deletes the kinds given by `--delete`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airsmith.artifacts.store import Store
from airsmith.cli.main import app
from airsmith.errors import AirsmithError
from tests.support.janitor import has_objects
from tests.support.runs import new_run, publish_artifact, write_unpublished


@pytest.fixture
def configured_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store.open(f"file://{tmp_path}/store")
    monkeypatch.setenv("AIRSMITH_STORE", store.uri)
    return store


def test_the_report_lists_names_ages_and_sizes(configured_store: Store, advance_clock: Callable[..., None]) -> None:
    write_unpublished(configured_store, "artifacts/model/aa")
    publish_artifact(configured_store, "tokens", "bb")
    advance_clock(days=100)
    result = CliRunner().invoke(app, ["janitor"])
    assert result.exit_code == 0
    assert "Half-published folders: would delete 1 (2 objects), 8 B" in result.output
    assert "  artifacts/model/aa/attempt=lost: never published, last written 100 days ago, 8 B" in result.output
    assert "Unused artifacts: would delete 1 (3 objects)" in result.output
    assert "Old checkpoints: none" in result.output
    assert has_objects(configured_store, "artifacts/model/aa")


def test_the_kinds_given_by_delete_are_deleted(configured_store: Store, advance_clock: Callable[..., None]) -> None:
    write_unpublished(configured_store, "artifacts/model/aa")
    publish_artifact(configured_store, "tokens", "bb")
    advance_clock(days=100)
    result = CliRunner().invoke(app, ["janitor", "--delete", "unfinished", "--delete", "caches"])
    assert "Half-published folders: deleted 1 (2 objects), 8 B" in result.output
    assert not has_objects(configured_store, "artifacts")


def test_an_unfinished_run_counts_as_active(configured_store: Store, advance_clock: Callable[..., None]) -> None:
    new_run(configured_store, "started")
    advance_clock(days=29)
    assert CliRunner().invoke(app, ["janitor"]).exit_code == 0


def test_an_unknown_kind_is_reported_with_the_valid_ones(configured_store: Store) -> None:
    result = CliRunner().invoke(app, ["janitor", "--delete", "everything"])
    assert isinstance(result.exception, AirsmithError)
    assert "'everything'" in result.exception.message
    assert "checkpoints" in result.exception.hint
