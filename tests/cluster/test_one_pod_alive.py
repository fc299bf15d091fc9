"""Whoever dies or is told to stop, at most one pod of a stage works: it is adopted, or it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import kubernetes
from conftest import Cluster
from test_failures import has_trained, newest_run, recipe

from tests.cluster.standalone import Airflow

WAIT_SECONDS = 600

_Found = TypeVar("_Found")


def wait_for(found: Callable[[], _Found | None]) -> _Found:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        time.sleep(0.5)
    raise AssertionError("what was waited for did not come")


def pods_of(cluster: Cluster, name: str, stage: str) -> list[kubernetes.client.V1Pod]:
    working = [pod for pod in cluster.pods(f"{name}-{stage}-") if pod.status.phase in ("Pending", "Running")]
    assert len(working) <= 1
    return working


def start_run(airflow: Airflow, name: str, content: dict[str, Any]) -> tuple[str, str]:
    dag_id = airflow.deployment.write_recipe(name, content)
    airflow.api.wait_for_dag(dag_id, WAIT_SECONDS)
    return dag_id, airflow.api.trigger(dag_id)


def is_training(airflow: Airflow, dag_id: str) -> bool:
    return has_trained(airflow.deployment, dag_id, steps=5)


def end_of(airflow: Airflow, dag_id: str, run_id: str) -> str:
    return wait_for(
        lambda: state if (state := airflow.api.run_state(dag_id, run_id)) in ("success", "failed") else None
    )


def test_a_triggerer_that_dies_leaves_the_training_at_work(airflow: Airflow, cluster: Cluster) -> None:
    dag_id, run_id = start_run(airflow, "triggerless", recipe(50, training={"max_steps": 120}))
    wait_for(lambda: is_training(airflow, dag_id))
    (pod,) = pods_of(cluster, "triggerless", "train")
    for process in airflow.processes("airflow", "triggerer"):
        process.kill()
    time.sleep(2)
    assert [left.metadata.uid for left in pods_of(cluster, "triggerless", "train")] == [pod.metadata.uid]
    airflow.start_triggerer()
    assert end_of(airflow, dag_id, run_id) == "success"
    assert newest_run(airflow.deployment, dag_id).statuses()["train"].state == "done"
    assert airflow.task(dag_id, run_id, "train")["try_number"] == 1


def test_a_training_that_a_person_marks_failed_ends(airflow: Airflow, cluster: Cluster) -> None:
    dag_id, run_id = start_run(airflow, "unwanted", recipe(51, training={"max_steps": 4000}))
    wait_for(lambda: is_training(airflow, dag_id))
    assert airflow.task(dag_id, run_id, "train")["state"] == "deferred"
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/train"
    airflow.api.request("PATCH", path, json={"new_state": "failed"})
    wait_for(lambda: not pods_of(cluster, "unwanted", "train"))
    assert end_of(airflow, dag_id, run_id) == "failed"


def test_the_pod_of_a_worker_that_is_killed_is_adopted(airflow: Airflow, cluster: Cluster) -> None:
    content = recipe(52, evaluate={"max_examples": 200, "max_new_tokens": 256})
    dag_id, run_id = start_run(airflow, "orphan", content)
    (pod,) = wait_for(lambda: [p for p in pods_of(cluster, "orphan", "evaluate") if p.status.phase == "Running"])
    task_instance = airflow.task(dag_id, run_id, "evaluate")["id"]
    at_work = airflow.processes("airflow worker -- ", task_instance)
    assert at_work
    for process in at_work:
        process.kill()
    adopted = pods_of(cluster, "orphan", "evaluate")
    assert end_of(airflow, dag_id, run_id) == "success"
    assert airflow.task(dag_id, run_id, "evaluate")["try_number"] == 2
    assert newest_run(airflow.deployment, dag_id).pointer("evaluate") is not None
    assert {seen.metadata.uid for seen in adopted} <= {pod.metadata.uid}
