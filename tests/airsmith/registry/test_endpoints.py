"""An endpoint's record has the current revision, the canary and the history."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import (
    Endpoint,
    Revision,
    ServerProcess,
    list_endpoints,
    read_endpoint,
    record_canary,
    record_current,
    record_replicas,
)
from tests.support.registry import new_revision


def revision(id: str) -> Revision:
    process = ServerProcess(pid=4242, started_at=1.5, log="/tmp/server.log")
    return new_revision(engine="transformers", version=3, id=id, process=process)


def test_an_endpoint_round_trips(store: Store):
    assert read_endpoint(store, "tiny") is None
    written = record_current(store, "tiny", revision("d1"))
    assert read_endpoint(store, "tiny") == written
    assert written.previous is None
    assert (written.name, written.current.id, written.current.process) == ("tiny", "d1", revision("d1").process)


def test_the_history_keeps_earlier_revisions(store: Store):
    for n in range(3):
        endpoint = record_current(store, "tiny", revision(f"d{n}"))
    assert endpoint.history == (revision("d0"), revision("d1"))
    assert endpoint.previous == revision("d1")


def test_current_and_canary_are_found_by_their_id(store: Store):
    record_current(store, "tiny", revision("d1"))
    shared = record_canary(store, "tiny", revision("d2"), 25, expected="d1")
    assert shared.find("d1") == revision("d1")
    assert shared.find("d2") == revision("d2")
    assert shared.find("d3") is None
    assert record_canary(store, "tiny", None, 0).find("d2") is None


def test_a_promoted_canary_has_no_share(store: Store):
    record_current(store, "tiny", revision("d1"))
    record_canary(store, "tiny", revision("d2"), 25)
    taken_over = record_current(store, "tiny", revision("d2"))
    assert (taken_over.canary, taken_over.canary_percent) == (None, 0)
    assert taken_over.history == (revision("d1"),)


@pytest.mark.parametrize("update", [record_canary, record_replicas])
def test_an_update_based_on_an_outdated_revision_is_refused(store: Store, update: Callable[..., Endpoint]):
    arguments = (revision("d3"), 10) if update is record_canary else (5,)
    with pytest.raises(AirsmithError, match="Endpoint tiny does not exist"):
        update(store, "tiny", *arguments, expected="d1")
    before = record_current(store, "tiny", revision("d2"))
    with pytest.raises(AirsmithError, match="Another deploy changed the current revision") as refused:
        update(store, "tiny", *arguments, expected="d1")
    assert refused.value.kind is ErrorKind.INTERRUPTED
    assert read_endpoint(store, "tiny") == before


def test_the_history_keeps_the_last_50_revisions():
    store = Store.open("memory://endpoint-history")
    for n in range(60):
        endpoint = record_current(store, "tiny", revision(f"d{n}"))
    assert [old.id for old in endpoint.history] == [f"d{n}" for n in range(9, 59)]


def test_no_concurrent_revision_is_lost(store: Store):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: record_current(store, "tiny", revision(f"d{n}")), range(6)))
    endpoint = read_endpoint(store, "tiny")
    assert endpoint is not None
    assert sorted([endpoint.current.id, *(old.id for old in endpoint.history)]) == [f"d{n}" for n in range(6)]


def test_endpoints_are_listed_by_name(store: Store):
    store.write("endpoints/notes.txt", b"")
    for name in ("b", "a-1", "a"):
        record_current(store, name, revision(name))
    assert [endpoint.name for endpoint in list_endpoints(store)] == ["a", "a-1", "b"]


def test_an_incompatible_record_is_reported_and_kept(store: Store):
    store.write("endpoints/tiny.json", b'{"engine": "vllm"}')
    with pytest.raises(AirsmithError, match=r"endpoints/tiny\.json is not a valid Endpoint") as refused:
        record_current(store, "tiny", revision("d1"))
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert store.read("endpoints/tiny.json") == b'{"engine": "vllm"}'


def test_a_store_that_honors_no_conditional_put_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Store, "compare_and_swap", lambda *_: False)
    monkeypatch.setattr("airsmith.registry.compare_and_swap._MAX_PAUSE_SECONDS", 0)
    with pytest.raises(AirsmithError, match="in each of 100 attempts") as refused:
        record_current(store, "tiny", revision("d1"))
    assert refused.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert "conditional puts" in refused.value.hint
