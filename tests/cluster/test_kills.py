"""Whatever is killed, drained or cleared: one pod works, and the weights are those of an undisturbed training."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kubernetes
import pytest
from conftest import Cluster
from test_failures import newest_run, recipe
from test_one_pod_alive import end_of, is_training, pods_of, start_run, wait_for

from airsmith.artifacts.read import open_artifact
from airsmith.contracts.run import Run
from tests.cluster.standalone import Airflow

pytestmark = pytest.mark.alone
ORPHAN_SECONDS = 60


def same_training(save_steps: int, seed: int = 70, **sections: Any) -> dict[str, Any]:
    """One training under many names: how often it saves makes it another artifact, of the same weights."""
    return recipe(seed, training={"save_steps": save_steps, "max_steps": 60}, **sections)


def weights_of(run: Run) -> bytes:
    """The trained adapter, verified."""
    pointer = run.pointer("train")
    assert pointer is not None
    adapter = open_artifact(run.store, pointer.location)
    assert adapter is not None
    return adapter.read("adapter_model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(airflow: Airflow) -> bytes:
    """Weights of the training that nobody disturbs."""
    dag_id, run_id = start_run(airflow, "undisturbed", same_training(save_steps=60))
    finish_training(airflow, dag_id, run_id)
    return weights_of(newest_run(airflow.deployment, dag_id))


def finish_training(airflow: Airflow, dag_id: str, run_id: str) -> None:
    """Wait for the good end of a training."""

    def state() -> str:
        return str(airflow.task(dag_id, run_id, "train")["state"])

    assert wait_for(lambda: state() in ("success", "failed", "upstream_failed") and state()) == "success"


def follow(
    airflow: Airflow, cluster: Cluster, name: str, run: tuple[str, str], disturbed: str
) -> list[kubernetes.client.V1Pod]:
    """Wait for the end of a disturbed training, and for the end of its last pod.

    :param disturbed: uid of the pod that was at work.
    :returns: the pods that worked after it; two never did at once.
    """
    seen: dict[str, kubernetes.client.V1Pod] = {}

    def has_finished() -> bool:
        seen.update({pod.metadata.uid: pod for pod in pods_of(cluster, name, "train")})
        return airflow.task(*run, "train")["state"] in ("success", "failed")

    wait_for(has_finished)
    assert airflow.task(*run, "train")["state"] == "success"
    left = time.monotonic()
    wait_for(lambda: not pods_of(cluster, name, "train"))
    assert time.monotonic() - left < ORPHAN_SECONDS
    return [pod for uid, pod in seen.items() if uid != disturbed]


def log_of(airflow: Airflow, dag_id: str, run_id: str, task_id: str) -> str:
    """What all tries of a task have said."""
    tries = range(1, airflow.task(dag_id, run_id, task_id)["try_number"] + 1)
    pages = (
        airflow.api.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{number}?map_index=-1")
        for number in tries
    )
    return "\n".join(str(line.get("event")) for page in pages for line in page["content"])


def test_a_cleared_training_ends_and_its_next_try_goes_on(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes
) -> None:
    dag_id, run_id = start_run(airflow, "cleared", same_training(save_steps=5))
    wait_for(lambda: is_training(airflow, dag_id))
    (pod,) = pods_of(cluster, "cleared", "train")
    clear(airflow, dag_id, run_id, "train")
    (later,) = follow(airflow, cluster, "cleared", (dag_id, run_id), pod.metadata.uid)
    assert later.metadata.name == pod.metadata.name
    assert "Going on from the checkpoint" in log_of(airflow, dag_id, run_id, "train")
    assert weights_of(newest_run(airflow.deployment, dag_id)) == undisturbed


def clear(airflow: Airflow, dag_id: str, run_id: str, task_id: str) -> None:
    """What the button Clear does."""
    wanted = {"dag_run_id": run_id, "task_ids": [task_id], "dry_run": False, "only_failed": False}
    airflow.api.request("POST", f"dags/{dag_id}/clearTaskInstances", json={**wanted, "reset_dag_runs": True})


def test_the_training_of_a_drained_node_goes_on_elsewhere(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes
) -> None:
    dag_id, run_id = start_run(airflow, "drained-node", same_training(save_steps=6))
    wait_for(lambda: is_training(airflow, dag_id))
    (pod,) = pods_of(cluster, "drained-node", "train")
    with drained(cluster, pod):
        (later,) = follow(airflow, cluster, "drained-node", (dag_id, run_id), pod.metadata.uid)
    assert later.spec.node_name != pod.spec.node_name
    assert weights_of(newest_run(airflow.deployment, dag_id)) == undisturbed


@contextmanager
def drained(cluster: Cluster, pod: kubernetes.client.V1Pod) -> Iterator[None]:
    """Take a pod's node out of service as `kubectl drain` does, for this pod alone: other tests' pods stay."""
    node = pod.spec.node_name
    others = [
        other for other in cluster.core.list_node().items if other.metadata.name != node and not other.spec.taints
    ]
    if not others:
        pytest.skip("no other node could take the training")
    cluster.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        eviction = kubernetes.client.V1Eviction(
            metadata=kubernetes.client.V1ObjectMeta(name=pod.metadata.name, namespace=cluster.namespace)
        )
        cluster.core.create_namespaced_pod_eviction(pod.metadata.name, cluster.namespace, eviction)
        yield
    finally:
        cluster.core.patch_node(node, {"spec": {"unschedulable": False}})


@pytest.mark.parametrize(
    ("name", "save_steps", "back_once_it_says"),
    [
        ("storeless", 1, "could not be written"),
        pytest.param("storeless-long", 2, "store_unavailable", marks=pytest.mark.long),
    ],
)
def test_a_store_that_dies_while_checkpoints_are_uploaded_costs_nothing(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes, name: str, save_steps: int, back_once_it_says: str
) -> None:
    tool = os.environ.get("AIRSMITH_TEST_CLUSTER_TOOL")
    if tool is None:
        pytest.skip("AIRSMITH_TEST_CLUSTER_TOOL names nothing that could kill and start this cluster's store")
    dag_id, run_id = start_run(airflow, name, same_training(save_steps))
    wait_for(lambda: is_training(airflow, dag_id))
    (pod,) = pods_of(cluster, name, "train")
    subprocess.run([tool, "kill", "minio"], check=True)
    try:
        wait_for(lambda: back_once_it_says in stage_log(cluster, pod))
    finally:
        subprocess.run([tool, "start", "minio"], check=True)
    follow(airflow, cluster, name, (dag_id, run_id), pod.metadata.uid)
    assert weights_of(newest_run(airflow.deployment, dag_id)) == undisturbed


def stage_log(cluster: Cluster, pod: kubernetes.client.V1Pod) -> str:
    """What a pod has said so far; nothing where it is gone."""
    try:
        return str(cluster.core.read_namespaced_pod_log(pod.metadata.name, cluster.namespace))
    except kubernetes.client.ApiException:
        return ""


@pytest.mark.long
def test_a_worker_that_dies_at_the_training_s_end_leaves_its_output_and_no_pod(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes
) -> None:
    dag_id, run_id = start_run(airflow, "late", same_training(save_steps=20))
    wait_for(lambda: airflow.task(dag_id, run_id, "train")["state"] == "deferred")
    kill_worker(airflow, dag_id, run_id, "train", signal.SIGKILL)
    follow(airflow, cluster, "late", (dag_id, run_id), "")
    assert airflow.task(dag_id, run_id, "train")["try_number"] == 2
    assert not cluster.pods("late-train-")
    assert weights_of(newest_run(airflow.deployment, dag_id)) == undisturbed


def test_a_short_stage_ends_with_the_worker_that_is_told_to_stop(airflow: Airflow, cluster: Cluster) -> None:
    content = same_training(save_steps=30, evaluate={"max_examples": 100, "max_new_tokens": 128})
    dag_id, run_id = start_run(airflow, "stopped", content)
    (pod,) = wait_for(lambda: [p for p in pods_of(cluster, "stopped", "evaluate") if p.status.phase == "Running"])
    # A process that has only begun does not hear a signal yet, and would end its work within the pod's grace.
    run = newest_run(airflow.deployment, dag_id)
    wait_for(lambda: (status := run.statuses().get("evaluate")) is not None and status.state == "running")
    kill_worker(airflow, dag_id, run_id, "evaluate", signal.SIGTERM)
    wait_for(lambda: [p for p in pods_of(cluster, "stopped", "evaluate") if p.metadata.uid != pod.metadata.uid])
    assert end_of(airflow, dag_id, run_id) == "success"
    assert airflow.task(dag_id, run_id, "evaluate")["try_number"] == 2


def kill_worker(airflow: Airflow, dag_id: str, run_id: str, task_id: str, sent: signal.Signals) -> None:
    """Send a signal to the process that works on a task, once Airflow knows that it does."""
    wait_for(lambda: airflow.task(dag_id, run_id, task_id)["state"] == "running")
    processes = airflow.processes("airflow worker -- ", airflow.task(dag_id, run_id, task_id)["id"])
    assert processes
    for process in processes:
        process.send_signal(sent)
