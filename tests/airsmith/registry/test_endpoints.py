"""An endpoint's record says what is served now and what was served before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import (
    Deployment,
    Endpoint,
    ServerProcess,
    list_endpoints,
    read_endpoint,
    resize_endpoint,
    share_endpoint,
    swap_endpoint,
)


def deployment(id: str) -> Deployment:
    process = ServerProcess(pid=4242, started_at=1.5, log="/tmp/server.log")
    return Deployment(
        engine="transformers", address="http://127.0.0.1:1", model_name="tiny", version=3,
        model_uri="artifacts/model/m", deployment=id, process=process,
    )  # fmt: skip


def test_what_is_served_can_be_read_back(store: Store):
    assert read_endpoint(store, "tiny") is None
    written = swap_endpoint(store, "tiny", deployment("d1"))
    assert read_endpoint(store, "tiny") == written
    assert written.previous is None
    assert (written.name, written.deployment, written.process) == ("tiny", "d1", deployment("d1").process)


def test_what_was_served_before_is_kept(store: Store):
    for n in range(3):
        endpoint = swap_endpoint(store, "tiny", deployment(f"d{n}"))
    assert endpoint.history == (deployment("d0"), deployment("d1"))
    assert endpoint.previous == deployment("d1")


def test_who_has_requests_is_found_by_its_id(store: Store):
    swap_endpoint(store, "tiny", deployment("d1"))
    shared = share_endpoint(store, "tiny", deployment("d2"), 25, beside="d1")
    assert shared.find("d1") == deployment("d1")
    assert shared.find("d2") == deployment("d2")
    assert shared.find("d3") is None
    assert share_endpoint(store, "tiny", None, 0).find("d2") is None


def test_who_takes_over_has_no_share_any_more(store: Store):
    swap_endpoint(store, "tiny", deployment("d1"))
    share_endpoint(store, "tiny", deployment("d2"), 25)
    taken_over = swap_endpoint(store, "tiny", deployment("d2"))
    assert (taken_over.candidate, taken_over.candidate_percent) == (None, 0)
    assert taken_over.history == (deployment("d1"),)


@pytest.mark.parametrize("decide", [share_endpoint, resize_endpoint])
def test_what_was_decided_for_another_server_is_refused(store: Store, decide: Callable[..., Endpoint]):
    arguments, of = ((deployment("d3"), 10), "beside") if decide is share_endpoint else ((5,), "of")
    with pytest.raises(AirsmithError, match="There is no endpoint tiny"):
        decide(store, "tiny", *arguments, **{of: "d1"})
    before = swap_endpoint(store, "tiny", deployment("d2"))
    with pytest.raises(AirsmithError, match="serve something else meanwhile") as refused:
        decide(store, "tiny", *arguments, **{of: "d1"})
    assert refused.value.kind is ErrorKind.INTERRUPTED
    assert read_endpoint(store, "tiny") == before


def test_the_history_does_not_grow_for_ever():
    store = Store.open("memory://endpoint-history")
    for n in range(60):
        endpoint = swap_endpoint(store, "tiny", deployment(f"d{n}"))
    assert [old.deployment for old in endpoint.history] == [f"d{n}" for n in range(9, 59)]


def test_no_deployment_is_lost_in_a_race(store: Store):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: swap_endpoint(store, "tiny", deployment(f"d{n}")), range(6)))
    endpoint = read_endpoint(store, "tiny")
    assert endpoint is not None
    assert sorted([endpoint.deployment, *(old.deployment for old in endpoint.history)]) == [f"d{n}" for n in range(6)]


def test_all_endpoints_are_listed_by_name(store: Store):
    store.write("endpoints/notes.txt", b"")
    for name in ("b", "a-1", "a"):
        swap_endpoint(store, name, deployment(name))
    assert [endpoint.name for endpoint in list_endpoints(store)] == ["a", "a-1", "b"]


def test_a_record_of_another_time_is_named(store: Store):
    store.write("endpoints/tiny.json", b'{"engine": "vllm"}')
    with pytest.raises(AirsmithError, match=r"endpoints/tiny\.json is no Endpoint") as refused:
        swap_endpoint(store, "tiny", deployment("d1"))
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert store.read("endpoints/tiny.json") == b'{"engine": "vllm"}'


def test_a_store_that_honours_no_conditional_put_is_told_so(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Store, "swap", lambda *_: False)
    monkeypatch.setattr("airsmith.registry.swapping._LONGEST_PAUSE_SECONDS", 0)
    with pytest.raises(AirsmithError, match="in each of 100 tries") as refused:
        swap_endpoint(store, "tiny", deployment("d1"))
    assert refused.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert "conditional puts" in refused.value.hint
