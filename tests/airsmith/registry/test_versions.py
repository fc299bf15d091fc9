"""Versions have numbers of their own, on every store and however many register at the same time, and never change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from drafts import RACERS, draft

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import (
    find_version_by_digest,
    get_version,
    list_versions,
    register_version,
)


def test_versions_are_numbered_from_one(store: Store):
    assert [register_version(store, "tiny", draft(f"d{n}")).version for n in range(3)] == [1, 2, 3]
    assert [version.version for version in list_versions(store, "tiny")] == [1, 2, 3]
    assert register_version(store, "other", draft("d0")).version == 1


def test_ten_comes_behind_nine():
    store = Store.open("memory://ten-versions")
    for n in range(11):
        register_version(store, "tiny", draft(f"d{n}"))
    assert [version.digest for version in list_versions(store, "tiny")] == [f"d{n}" for n in range(11)]


def test_what_is_registered_keeps_its_number_and_its_record(store: Store):
    first = register_version(store, "tiny", draft("d1", metrics={"loss": 0.5}))
    register_version(store, "tiny", draft("d2"))
    assert register_version(store, "tiny", draft("d1", metrics={"loss": 0.1})) == first
    assert get_version(store, "tiny", 1).metrics == {"loss": 0.5}
    assert find_version_by_digest(store, "tiny", "d1") == first
    assert find_version_by_digest(store, "tiny", "d3") is None


def test_racers_get_numbers_of_their_own(store: Store):
    with ThreadPoolExecutor(RACERS) as pool:
        versions = list(pool.map(lambda n: register_version(store, "tiny", draft(f"d{n}")), range(RACERS)))
    assert sorted(version.version for version in versions) == list(range(1, RACERS + 1))
    for version in versions:
        assert get_version(store, "tiny", version.version) == version


def test_racers_with_the_same_result_get_the_same_number(store: Store):
    with ThreadPoolExecutor(RACERS) as pool:
        versions = list(pool.map(lambda _: register_version(store, "tiny", draft()), range(RACERS)))
    assert {version.version for version in versions} == {1}
    assert len(list_versions(store, "tiny")) == 1


def test_a_name_that_begins_with_anothers_is_another(store: Store):
    register_version(store, "tiny-2", draft())
    store.write("models/tiny/notes.txt", b"")
    store.write("models/tiny/01/version.json", b"{}")
    assert list_versions(store, "tiny") == []
    assert register_version(store, "tiny", draft()).version == 1


def test_a_version_that_is_not_there_is_named_with_those_that_are(store: Store):
    with pytest.raises(AirsmithError, match="has no version 1") as refused:
        get_version(store, "tiny", 1)
    assert (refused.value.kind, refused.value.hint) == (ErrorKind.NOT_FOUND, "Existing versions: none.")
    register_version(store, "tiny", draft("d1"))
    register_version(store, "tiny", draft("d2"))
    with pytest.raises(AirsmithError) as refused:
        get_version(store, "tiny", 7)
    assert refused.value.hint == "Existing versions: 1, 2."


@pytest.mark.parametrize("name", ["", "Tiny", "-tiny", "../tiny", "a/b", "tiny\n", "a" * 64, "tiny model", "café"])
def test_what_cannot_be_a_name_is_refused(store: Store, name: str):
    with pytest.raises(AirsmithError, match="cannot name a model or an endpoint") as refused:
        register_version(store, name, draft())
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert not list(store.list(""))


@pytest.mark.parametrize("record", [b"", b"{}", b"\xff\xfe", b'{"digest": "d", "surprise": 1}'])
def test_a_damaged_record_is_named(store: Store, record: bytes):
    store.write("models/tiny/1/version.json", record)
    with pytest.raises(AirsmithError, match=r"models/tiny/1/version\.json is no ModelVersion") as refused:
        list_versions(store, "tiny")
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
