"""The champion changes by compare-and-swap: no promotion is lost, and the history keeps them all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import get_champion, promote, register_version
from tests.support.registry import CONCURRENT_WRITERS, version_draft


@pytest.fixture
def versions(store: Store) -> list[int]:
    return [register_version(store, "tiny", version_draft(f"d{n}")).version for n in range(CONCURRENT_WRITERS)]


def test_there_is_no_champion_before_the_first_promotion(store: Store, versions: list[int]):
    assert get_champion(store, "tiny") is None


def test_a_promotion_keeps_the_earlier_ones_in_the_history(store: Store, versions: list[int]):
    promote(store, "tiny", 1, "first")
    promote(store, "tiny", 3, "better")
    champion = promote(store, "tiny", 2, "back")
    assert champion == get_champion(store, "tiny")
    assert (champion.version, champion.reason) == (2, "back")
    assert [(event.version, event.reason) for event in champion.history] == [(1, "first"), (3, "better")]


def test_a_missing_version_cannot_be_promoted(store: Store, versions: list[int]):
    with pytest.raises(AirsmithError, match="has no version 99") as refused:
        promote(store, "tiny", 99, "?")
    assert refused.value.kind is ErrorKind.NOT_FOUND
    assert get_champion(store, "tiny") is None


def test_no_concurrent_promotion_is_lost(store: Store, versions: list[int]):
    with ThreadPoolExecutor(CONCURRENT_WRITERS) as pool:
        list(pool.map(lambda number: promote(store, "tiny", number, f"r{number}"), versions))
    champion = get_champion(store, "tiny")
    assert champion is not None
    assert sorted([champion.version, *(event.version for event in champion.history)]) == versions
