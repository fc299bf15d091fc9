"""After any interruption, at most one pod of a stage runs: the next try adopts it, or it is stopped."""

from __future__ import annotations

import time

import pytest

from tests.cluster.airflow_server import AirflowServer
from tests.cluster.dag_runs import (
    active_pods,
    final_state,
    has_trained,
    mark_task_failed,
    newest_run,
    small_recipe,
    start_run,
    wait_for,
)
from tests.cluster.installation import Cluster

pytestmark = pytest.mark.images("cpu", "train-cpu")


def test_a_training_survives_the_triggerers_death(airflow: AirflowServer, cluster: Cluster) -> None:
    dag_id, run_id = start_run(airflow, "triggerless", small_recipe(50, training={"max_steps": 120}))
    wait_for(lambda: has_trained(airflow.installation, dag_id))
    (pod,) = active_pods(cluster, "triggerless", "train")
    for process in airflow.processes("airflow", "triggerer"):
        process.kill()
    time.sleep(2)
    assert [left.metadata.uid for left in active_pods(cluster, "triggerless", "train")] == [pod.metadata.uid]
    airflow.start_triggerer()
    assert final_state(airflow, dag_id, run_id) == "success"
    assert newest_run(airflow.installation, dag_id).statuses()["train"].state == "done"
    assert airflow.task(dag_id, run_id, "train")["try_number"] == 1


def test_marking_a_training_failed_stops_it(airflow: AirflowServer, cluster: Cluster) -> None:
    dag_id, run_id = start_run(airflow, "unwanted", small_recipe(51, training={"max_steps": 4000}))
    wait_for(lambda: has_trained(airflow.installation, dag_id))
    assert airflow.task(dag_id, run_id, "train")["state"] == "deferred"
    mark_task_failed(airflow, dag_id, run_id, "train")
    wait_for(lambda: not active_pods(cluster, "unwanted", "train"))
    assert final_state(airflow, dag_id, run_id) == "failed"


@pytest.mark.core
def test_the_next_try_adopts_the_pod_of_a_killed_worker(airflow: AirflowServer, cluster: Cluster) -> None:
    content = small_recipe(52, evaluate={"max_examples": 200, "max_new_tokens": 256})
    dag_id, run_id = start_run(airflow, "orphan", content)
    (pod,) = wait_for(lambda: [p for p in active_pods(cluster, "orphan", "evaluate") if p.status.phase == "Running"])
    task_instance = airflow.task(dag_id, run_id, "evaluate")["id"]
    workers = airflow.processes("airflow worker -- ", task_instance)
    assert workers
    for process in workers:
        process.kill()
    adopted = active_pods(cluster, "orphan", "evaluate")
    assert final_state(airflow, dag_id, run_id) == "success"
    assert airflow.task(dag_id, run_id, "evaluate")["try_number"] == 2
    assert newest_run(airflow.installation, dag_id).pointer("evaluate") is not None
    assert {seen.metadata.uid for seen in adopted} <= {pod.metadata.uid}
