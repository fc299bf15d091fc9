"""Only pods and servers that are proven unused are removed; young, foreign and unknown ones are kept."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import models as k8s

from airsmith.airflow.task_owner import this_airflow
from airsmith.cluster.labels import PREFIX, TaskOwner, pod_labels
from airsmith.janitor.endpoints import unused_deployments
from airsmith.janitor.pods import find_orphans
from airsmith.janitor.runs import FINISHED_STATES
from airsmith.registry import Endpoint, Revision
from tests.support.registry import new_revision

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
HERE = "https://airflow.example.com"
STORE = "s3://bucket/prefix"
GRACE = timedelta(hours=24)

States = Mapping[str, Mapping[str, "str | None"]]


def pod(name: str, run_id: str = "r", task: str = "train", *, airflow: str = HERE, age: float = 600, **metadata: Any):  # type: ignore[no-untyped-def]
    known = {"creation_timestamp": NOW - timedelta(seconds=age), "uid": name, "namespace": "n"}
    owner = TaskOwner(airflow, "dag", run_id, task).annotations()
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(name=name, **{**known, "annotations": owner, **metadata}))


def find_orphan_names(pods: Sequence[k8s.V1Pod], states: States) -> dict[str, str]:
    def fetch_states(dag_id: str, run_ids: Sequence[str]) -> States:
        assert dag_id == "dag"
        return {run_id: states[run_id] for run_id in run_ids if run_id in states}

    return {found.metadata.name: reason for found, reason in find_orphans(pods, NOW, HERE, fetch_states)}


def test_a_pod_of_a_deleted_run_is_an_orphan():
    assert find_orphan_names([pod("a")], {}) == {"a": "run r of dag was deleted in Airflow"}


@given(st.none() | st.text(max_size=12) | st.sampled_from(sorted(FINISHED_STATES)))
def test_a_pod_is_an_orphan_only_if_its_task_has_finished(state: str | None):
    assert bool(find_orphan_names([pod("a")], {"r": {"train": state}})) == (state in FINISHED_STATES)


def test_a_pod_of_an_unlisted_task_is_kept():
    assert not find_orphan_names([pod("a")], {"r": {"train_0": "failed"}})


def test_young_foreign_unannotated_and_terminating_pods_are_kept():
    kept = [
        pod("young", age=59),
        pod("foreign", airflow="https://other.example.com"),
        pod("unannotated", annotations={f"{PREFIX}run-uri": "s3://b/runs/d/r"}),
        pod("bare", annotations=None),
        pod("terminating", deletion_timestamp=NOW),
    ]
    assert not find_orphan_names(kept, {})


def test_an_airflow_error_stops_the_search():
    def fail(dag_id: str, run_ids: Sequence[str]) -> States:
        raise RuntimeError("API server")

    with pytest.raises(RuntimeError):
        list(find_orphans([pod("a")], NOW, HERE, fail))


@given(*[st.text(max_size=40)] * 4)
def test_the_task_owner_round_trips_through_annotations(airflow: str, dag_id: str, run_id: str, task_id: str):
    owner = TaskOwner(airflow, dag_id, run_id, task_id)
    assert TaskOwner.of_annotations(owner.annotations()) == owner


def test_an_airflow_is_identified_by_its_addresses_or_its_hostname(monkeypatch: pytest.MonkeyPatch):
    assert this_airflow() == socket.gethostname()
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", HERE)
    assert this_airflow() == HERE
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://api:8080/execution/")
    assert this_airflow() == f"{HERE} http://api:8080/execution/"


def test_runs_are_queried_in_batches_of_50():
    batch_sizes = []

    def fetch_states(dag_id: str, run_ids: Sequence[str]) -> States:
        batch_sizes.append(len(run_ids))
        return {run_id: {"train": "running"} for run_id in run_ids}

    assert not list(find_orphans([pod(str(n), f"run-{n}") for n in range(120)], NOW, HERE, fetch_states))
    assert batch_sizes == [50, 50, 20]


def server(endpoint: str, revision: str, *, hours: float = 48, store: str = STORE) -> k8s.V1Deployment:
    labels = pod_labels(endpoint=endpoint, revision=revision)
    container = k8s.V1Container(
        name="fetch", command=["python", "-m", "airsmith_stages.serving.fetch", store, "artifacts/m"]
    )
    return k8s.V1Deployment(
        metadata=k8s.V1ObjectMeta(name=revision, labels=labels, creation_timestamp=NOW - timedelta(hours=hours)),
        spec=k8s.V1DeploymentSpec(
            selector=k8s.V1LabelSelector(),
            template=k8s.V1PodTemplateSpec(spec=k8s.V1PodSpec(containers=[container])),
        ),
    )


def endpoint(name: str, current: str, *history: str, canary: str | None = None) -> Endpoint:
    def revision(revision_id: str) -> Revision:
        return new_revision(name, id=revision_id, namespace="n")

    return Endpoint(
        name=name,
        current=revision(current),
        history=tuple(map(revision, history)),
        canary=None if canary is None else revision(canary),
        updated_at=NOW,
    )


def unused_names(servers: Sequence[k8s.V1Deployment], *endpoints: Endpoint) -> list[str]:
    return [found.name for found in unused_deployments(servers, endpoints, STORE, NOW, GRACE)]


def test_a_server_without_an_endpoint_is_unused():
    assert unused_names([server("chat", "a")]) == ["a"]


def test_current_canary_and_previous_servers_are_kept():
    servers = [server("chat", name) for name in ("oldest", "before", "now", "canary", "stray")]
    record = endpoint("chat", "now", "oldest", "before", canary="canary")
    assert unused_names(servers, record) == ["oldest", "stray"]


def test_the_newest_existing_server_of_the_history_is_kept():
    record = endpoint("chat", "now", "oldest", "before", "now")
    assert not unused_names([server("chat", "oldest"), server("chat", "now")], record)


def test_a_young_server_is_kept():
    assert not unused_names([server("chat", "a", hours=23)])


def test_servers_of_other_stores_are_ignored():
    assert not unused_names([server("chat", "a", store=f"{STORE}-of-others"), server("chat", "b", store="s3://else/x")])
