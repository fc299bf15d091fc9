"""An endpoint's record says what is served now and what was served before."""

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


def revision(id: str) -> Revision:
    process = ServerProcess(pid=4242, started_at=1.5, log="/tmp/server.log")
    return Revision(
        engine="transformers", address="http://127.0.0.1:1", model_name="tiny", version=3,
        model_uri="artifacts/model/m", id=id, process=process,
    )  # fmt: skip


def test_what_is_served_can_be_read_back(store: Store):
    assert read_endpoint(store, "tiny") is None
    written = record_current(store, "tiny", revision("d1"))
    assert read_endpoint(store, "tiny") == written
    assert written.previous is None
    assert (written.name, written.current.id, written.current.process) == ("tiny", "d1", revision("d1").process)


def test_what_was_served_before_is_kept(store: Store):
    for n in range(3):
        endpoint = record_current(store, "tiny", revision(f"d{n}"))
    assert endpoint.history == (revision("d0"), revision("d1"))
    assert endpoint.previous == revision("d1")


def test_who_has_requests_is_found_by_its_id(store: Store):
    record_current(store, "tiny", revision("d1"))
    shared = record_canary(store, "tiny", revision("d2"), 25, expected="d1")
    assert shared.find("d1") == revision("d1")
    assert shared.find("d2") == revision("d2")
    assert shared.find("d3") is None
    assert record_canary(store, "tiny", None, 0).find("d2") is None


def test_who_takes_over_has_no_share_any_more(store: Store):
    record_current(store, "tiny", revision("d1"))
    record_canary(store, "tiny", revision("d2"), 25)
    taken_over = record_current(store, "tiny", revision("d2"))
    assert (taken_over.canary, taken_over.canary_percent) == (None, 0)
    assert taken_over.history == (revision("d1"),)


@pytest.mark.parametrize("decide", [record_canary, record_replicas])
def test_what_was_decided_for_another_server_is_refused(store: Store, decide: Callable[..., Endpoint]):
    arguments = (revision("d3"), 10) if decide is record_canary else (5,)
    with pytest.raises(AirsmithError, match="Endpoint tiny does not exist"):
        decide(store, "tiny", *arguments, expected="d1")
    before = record_current(store, "tiny", revision("d2"))
    with pytest.raises(AirsmithError, match="Another deploy changed the current revision of endpoint tiny") as refused:
        decide(store, "tiny", *arguments, expected="d1")
    assert refused.value.kind is ErrorKind.INTERRUPTED
    assert read_endpoint(store, "tiny") == before


def test_the_history_does_not_grow_for_ever():
    store = Store.open("memory://endpoint-history")
    for n in range(60):
        endpoint = record_current(store, "tiny", revision(f"d{n}"))
    assert [old.id for old in endpoint.history] == [f"d{n}" for n in range(9, 59)]


def test_no_deployment_is_lost_in_a_race(store: Store):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: record_current(store, "tiny", revision(f"d{n}")), range(6)))
    endpoint = read_endpoint(store, "tiny")
    assert endpoint is not None
    assert sorted([endpoint.current.id, *(old.id for old in endpoint.history)]) == [f"d{n}" for n in range(6)]


def test_all_endpoints_are_listed_by_name(store: Store):
    store.write("endpoints/notes.txt", b"")
    for name in ("b", "a-1", "a"):
        record_current(store, name, revision(name))
    assert [endpoint.name for endpoint in list_endpoints(store)] == ["a", "a-1", "b"]


def test_a_record_of_another_time_is_named(store: Store):
    store.write("endpoints/tiny.json", b'{"engine": "vllm"}')
    with pytest.raises(AirsmithError, match=r"endpoints/tiny\.json is not a valid Endpoint") as refused:
        record_current(store, "tiny", revision("d1"))
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert store.read("endpoints/tiny.json") == b'{"engine": "vllm"}'


def test_a_store_that_honours_no_conditional_put_is_told_so(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Store, "swap", lambda *_: False)
    monkeypatch.setattr("airsmith.registry.compare_and_swap._MAX_PAUSE_SECONDS", 0)
    with pytest.raises(AirsmithError, match="in each of 100 attempts") as refused:
        record_current(store, "tiny", revision("d1"))
    assert refused.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert "conditional puts" in refused.value.hint
