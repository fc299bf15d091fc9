"""The janitor's work on a store, and the objects that remain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

import pytest

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.janitor import inventory, reap
from airsmith.janitor.report import Section
from airsmith.janitor.runs import FindActive, KnownRun
from airsmith.janitor.tidy import tidy_store
from airsmith.settings import JanitorSettings

ALL_KINDS = ("unfinished", "uploads", "checkpoints", "caches")


def only_active(*runs: Run) -> FindActive:
    """Reports these runs, and no others, as active."""
    paths = {run.path for run in runs}

    def find(known: Sequence[KnownRun], now: datetime) -> Collection[str]:
        return paths & {run.folder.path for run in known}

    return find


def tidy(
    store: Store, find_active: FindActive | None = None, kinds_to_delete: Collection[str] = ALL_KINDS
) -> dict[str, Section]:
    """The janitor's report, by kind."""
    sections = tidy_store(store, JanitorSettings(), find_active or only_active(), kinds_to_delete)
    return {section.kind: section for section in sections}


def paths_under(store: Store, folder: str) -> set[str]:
    return {info.path for info in store.list(folder)}


def has_objects(store: Store, folder: str) -> bool:
    with contextlib.suppress(StopIteration):
        return next(iter(store.list(folder))) is not None
    return False


def store_clock_shifter(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns a function that sets the store's clock ahead by a time, given as to `timedelta`."""
    real = inventory.store_time

    def advance(**by: float) -> None:
        def shifted(store: Store) -> datetime:
            return real(store) + timedelta(**by)

        monkeypatch.setattr(inventory, "store_time", shifted)

    return advance


def skip_pointer_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletes without the pause for concurrent stages; no stage runs during these tests."""
    monkeypatch.setattr(reap, "POINTER_GRACE_SECONDS", 0.0)
