"""Versions are numbered uniquely on every store, even if several writers register at once, and never change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import (
    find_version_by_digest,
    get_version,
    list_versions,
    register_version,
)
from tests.support.registry import CONCURRENT_WRITERS, version_draft


def test_versions_are_numbered_from_one(store: Store):
    assert [register_version(store, "tiny", version_draft(f"d{n}")).version for n in range(3)] == [1, 2, 3]
    assert [version.version for version in list_versions(store, "tiny")] == [1, 2, 3]
    assert register_version(store, "other", version_draft("d0")).version == 1


def test_versions_are_sorted_by_number():
    store = Store.open("memory://ten-versions")
    for n in range(11):
        register_version(store, "tiny", version_draft(f"d{n}"))
    assert [version.digest for version in list_versions(store, "tiny")] == [f"d{n}" for n in range(11)]


def test_registering_a_digest_again_returns_the_existing_version(store: Store):
    first = register_version(store, "tiny", version_draft("d1", metrics={"loss": 0.5}))
    register_version(store, "tiny", version_draft("d2"))
    assert register_version(store, "tiny", version_draft("d1", metrics={"loss": 0.1})) == first
    assert get_version(store, "tiny", 1).metrics == {"loss": 0.5}
    assert find_version_by_digest(store, "tiny", "d1") == first
    assert find_version_by_digest(store, "tiny", "d3") is None


def test_concurrent_writers_get_different_numbers(store: Store):
    with ThreadPoolExecutor(CONCURRENT_WRITERS) as pool:
        versions = list(
            pool.map(lambda n: register_version(store, "tiny", version_draft(f"d{n}")), range(CONCURRENT_WRITERS))
        )
    assert sorted(version.version for version in versions) == list(range(1, CONCURRENT_WRITERS + 1))
    for version in versions:
        assert get_version(store, "tiny", version.version) == version


def test_concurrent_writers_of_one_digest_get_the_same_number(store: Store):
    with ThreadPoolExecutor(CONCURRENT_WRITERS) as pool:
        versions = list(pool.map(lambda _: register_version(store, "tiny", version_draft()), range(CONCURRENT_WRITERS)))
    assert {version.version for version in versions} == {1}
    assert len(list_versions(store, "tiny")) == 1


def test_other_names_and_unknown_objects_are_not_listed(store: Store):
    register_version(store, "tiny-2", version_draft())
    store.write("models/tiny/notes.txt", b"")
    store.write("models/tiny/01/version.json", b"{}")
    assert list_versions(store, "tiny") == []
    assert register_version(store, "tiny", version_draft()).version == 1


def test_a_missing_version_is_reported_with_the_existing_ones(store: Store):
    with pytest.raises(AirsmithError, match="has no version 1") as refused:
        get_version(store, "tiny", 1)
    assert (refused.value.kind, refused.value.hint) == (ErrorKind.NOT_FOUND, "Existing versions: none.")
    register_version(store, "tiny", version_draft("d1"))
    register_version(store, "tiny", version_draft("d2"))
    with pytest.raises(AirsmithError) as refused:
        get_version(store, "tiny", 7)
    assert refused.value.hint == "Existing versions: 1, 2."


@pytest.mark.parametrize("name", ["", "Tiny", "-tiny", "../tiny", "a/b", "tiny\n", "a" * 64, "tiny model", "café"])
def test_an_invalid_name_is_refused(store: Store, name: str):
    with pytest.raises(AirsmithError, match="is not a valid name of a model or an endpoint") as refused:
        register_version(store, name, version_draft())
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert not list(store.list(""))


@pytest.mark.parametrize("record", [b"", b"{}", b"\xff\xfe", b'{"digest": "d", "surprise": 1}'])
def test_a_damaged_record_is_named(store: Store, record: bytes):
    store.write("models/tiny/1/version.json", record)
    with pytest.raises(AirsmithError, match=r"models/tiny/1/version\.json is not a valid ModelVersion") as refused:
        list_versions(store, "tiny")
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
