"""Pods and servers are judged on evidence alone: what is young, foreign or unclear is left to whoever made it."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import models as k8s
from workshop import served

from airsmith.airflow.task_owner import this_airflow
from airsmith.cluster.labels import PREFIX, TaskOwner, pod_labels
from airsmith.janitor.endpoints import unused_deployments
from airsmith.janitor.pods import find_orphans
from airsmith.janitor.runs import FINISHED_STATES
from airsmith.registry import Endpoint, Revision

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
HERE = "https://airflow.example.com"
STORE = "s3://bucket/prefix"
GRACE = timedelta(hours=24)

States = Mapping[str, Mapping[str, "str | None"]]


def pod(name: str, run_id: str = "r", task: str = "train", *, airflow: str = HERE, age: float = 600, **metadata: Any):  # type: ignore[no-untyped-def]
    known = {"creation_timestamp": NOW - timedelta(seconds=age), "uid": name, "namespace": "n"}
    owner = TaskOwner(airflow, "dag", run_id, task).annotations()
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(name=name, **{**known, "annotations": owner, **metadata}))


def orphans(pods: Sequence[k8s.V1Pod], states: States) -> dict[str, str]:
    def ask(dag_id: str, run_ids: Sequence[str]) -> States:
        assert dag_id == "dag"
        return {run_id: states[run_id] for run_id in run_ids if run_id in states}

    return {found.metadata.name: reason for found, reason in find_orphans(pods, NOW, HERE, ask)}


def test_a_pod_whose_run_was_deleted_is_an_orphan():
    assert orphans([pod("a")], {}) == {"a": "run r of dag was deleted in Airflow"}


@given(st.none() | st.text(max_size=12) | st.sampled_from(sorted(FINISHED_STATES)))
def test_a_pod_is_an_orphan_when_its_task_has_ended_and_in_no_other_state(state: str | None):
    assert bool(orphans([pod("a")], {"r": {"train": state}})) == (state in FINISHED_STATES)


def test_a_task_that_its_run_does_not_show_proves_nothing():
    assert not orphans([pod("a")], {"r": {"train_0": "failed"}})


def test_what_is_young_foreign_unmarked_or_ending_is_left_alone():
    left = [
        pod("young", age=59),
        pod("foreign", airflow="https://other.example.com"),
        pod("unmarked", annotations={f"{PREFIX}run-uri": "s3://b/runs/d/r"}),
        pod("bare", annotations=None),
        pod("ending", deletion_timestamp=NOW),
    ]
    assert not orphans(left, {})


def test_where_airflow_does_not_answer_no_pod_is_judged():
    def silent(dag_id: str, run_ids: Sequence[str]) -> States:
        raise RuntimeError("API server")

    with pytest.raises(RuntimeError):
        list(find_orphans([pod("a")], NOW, HERE, silent))


@given(*[st.text(max_size=40)] * 4)
def test_a_pods_mark_tells_its_task_whatever_the_names(airflow: str, dag_id: str, run_id: str, task_id: str):
    owner = TaskOwner(airflow, dag_id, run_id, task_id)
    assert TaskOwner.of_annotations(owner.annotations()) == owner


def test_an_airflow_is_known_by_its_addresses_else_by_its_machine(monkeypatch: pytest.MonkeyPatch):
    assert this_airflow() == socket.gethostname()
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", HERE)
    assert this_airflow() == HERE
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://api:8080/execution/")
    assert this_airflow() == f"{HERE} http://api:8080/execution/"


def test_many_runs_are_asked_for_in_parts():
    questions = []

    def ask(dag_id: str, run_ids: Sequence[str]) -> States:
        questions.append(len(run_ids))
        return {run_id: {"train": "running"} for run_id in run_ids}

    assert not list(find_orphans([pod(str(n), f"run-{n}") for n in range(120)], NOW, HERE, ask))
    assert questions == [50, 50, 20]


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
    def one(revision: str) -> Revision:
        return served(name, "artifacts/model/m", id=revision, namespace="n")

    return Endpoint(
        name=name,
        current=one(current),
        history=tuple(map(one, history)),
        canary=None if canary is None else one(canary),
        updated_at=NOW,
    )


def unused(servers: Sequence[k8s.V1Deployment], *endpoints: Endpoint) -> list[str]:
    return [found.name for found in unused_deployments(servers, endpoints, STORE, NOW, GRACE)]


def test_a_server_that_no_endpoint_records_is_unused():
    assert unused([server("chat", "a")]) == ["a"]


def test_what_serves_what_shares_and_what_a_roll_back_would_wake_stay():
    standing = [server("chat", name) for name in ("oldest", "before", "now", "canary", "stray")]
    record = endpoint("chat", "now", "oldest", "before", canary="canary")
    assert unused(standing, record) == ["oldest", "stray"]


def test_where_the_one_before_is_gone_an_older_one_is_what_a_roll_back_would_wake():
    record = endpoint("chat", "now", "oldest", "before", "now")
    assert not unused([server("chat", "oldest"), server("chat", "now")], record)


def test_a_server_that_may_be_about_to_be_recorded_stays():
    assert not unused([server("chat", "a", hours=23)])


def test_servers_of_other_stores_are_none_of_ours():
    assert not unused([server("chat", "a", store=f"{STORE}-of-others"), server("chat", "b", store="s3://else/x")])
