"""The champion of a model: one pointer, changed by compare-and-swap, with its history."""

from __future__ import annotations

from datetime import datetime, timezone

from airsmith.artifacts.layout import champion_path
from airsmith.artifacts.store import Store
from airsmith.registry.compare_and_swap import read_record, update_record
from airsmith.registry.names import check_name
from airsmith.registry.records import Champion, ChampionEvent
from airsmith.registry.versions import get_version


def get_champion(store: Store, name: str) -> Champion | None:
    """The champion of a model, or None before the first promotion."""
    found = read_record(store, champion_path(check_name(name)), Champion)
    return found[0] if found is not None else None


def promote(store: Store, name: str, number: int, reason: str) -> Champion:
    """Make a version the champion; a concurrent promotion stays in the history.

    :raises AirsmithError: `not_found` if no such version exists.
    """
    get_version(store, name, number)
    return update_record(store, champion_path(name), Champion, lambda before: _successor(name, number, reason, before))


def _successor(name: str, number: int, reason: str, before: Champion | None) -> Champion:
    history = () if before is None else (*before.history, _as_event(before))
    return Champion(name=name, version=number, reason=reason, promoted_at=datetime.now(timezone.utc), history=history)


def _as_event(champion: Champion) -> ChampionEvent:
    return ChampionEvent(version=champion.version, reason=champion.reason, promoted_at=champion.promoted_at)
