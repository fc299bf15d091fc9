"""After a kill, a drain or a clear, one pod runs and the weights equal those of an undisturbed training."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import kubernetes
import pytest

from tests.cluster.airflow_server import AirflowServer
from tests.cluster.dag_runs import (
    active_pods,
    clear,
    drained,
    final_state,
    finished_task,
    has_trained,
    kill_worker,
    newest_run,
    same_training,
    start_run,
    task_log,
    wait_for,
    weights_of,
)
from tests.cluster.installation import Cluster

pytestmark = [pytest.mark.alone, pytest.mark.images("cpu", "train-cpu")]
ORPHAN_SECONDS = 60


@pytest.fixture(scope="module")
def undisturbed(airflow: AirflowServer) -> bytes:
    """Weights of the undisturbed training."""
    dag_id, run_id = start_run(airflow, "undisturbed", same_training(save_steps=60))
    assert finished_task(airflow, dag_id, run_id, "train")["state"] == "success"
    return weights_of(newest_run(airflow.installation, dag_id))


def replacement_pods(
    airflow: AirflowServer, cluster: Cluster, name: str, run: tuple[str, str], disturbed: str
) -> list[kubernetes.client.V1Pod]:
    """Wait until a disturbed training succeeds and its last pod is gone.

    :param disturbed: uid of the pod that ran before.
    :returns: the pods that ran after it; never two at a time.
    """
    seen: dict[str, kubernetes.client.V1Pod] = {}

    def is_finished() -> bool:
        seen.update({pod.metadata.uid: pod for pod in active_pods(cluster, name, "train")})
        return airflow.task(*run, "train")["state"] in ("success", "failed")

    wait_for(is_finished)
    assert airflow.task(*run, "train")["state"] == "success"
    finished_at = time.monotonic()
    wait_for(lambda: not active_pods(cluster, name, "train"))
    assert time.monotonic() - finished_at < ORPHAN_SECONDS
    return [pod for uid, pod in seen.items() if uid != disturbed]


def test_the_next_try_of_a_cleared_training_resumes(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes
) -> None:
    dag_id, run_id = start_run(airflow, "cleared", same_training(save_steps=5))
    wait_for(lambda: has_trained(airflow.installation, dag_id))
    (pod,) = active_pods(cluster, "cleared", "train")
    clear(airflow, dag_id, run_id, "train")
    (later,) = replacement_pods(airflow, cluster, "cleared", (dag_id, run_id), pod.metadata.uid)
    assert later.metadata.name == pod.metadata.name
    assert "Resuming from the checkpoint" in task_log(airflow, dag_id, run_id, "train")
    assert weights_of(newest_run(airflow.installation, dag_id)) == undisturbed


def test_a_training_on_a_drained_node_resumes_on_another_node(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes
) -> None:
    dag_id, run_id = start_run(airflow, "drained-node", same_training(save_steps=6))
    wait_for(lambda: has_trained(airflow.installation, dag_id))
    (pod,) = active_pods(cluster, "drained-node", "train")
    with drained(cluster, pod):
        (later,) = replacement_pods(airflow, cluster, "drained-node", (dag_id, run_id), pod.metadata.uid)
    assert later.spec.node_name != pod.spec.node_name
    assert weights_of(newest_run(airflow.installation, dag_id)) == undisturbed


@pytest.mark.parametrize(
    ("name", "save_steps", "restart_on_message"),
    [
        ("storeless", 1, "could not be written"),
        pytest.param("storeless-long", 2, "store_unavailable", marks=pytest.mark.long),
    ],
)
def test_a_training_survives_a_store_outage_during_checkpoints(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes, name: str, save_steps: int, restart_on_message: str
) -> None:
    tool = os.environ.get("AIRSMITH_TEST_CLUSTER_TOOL")
    if tool is None:
        pytest.skip("AIRSMITH_TEST_CLUSTER_TOOL is not set, so the store cannot be stopped")
    dag_id, run_id = start_run(airflow, name, same_training(save_steps))
    wait_for(lambda: has_trained(airflow.installation, dag_id))
    (pod,) = active_pods(cluster, name, "train")
    subprocess.run([tool, "kill", "minio"], check=True)
    try:
        wait_for(lambda: restart_on_message in stage_log(cluster, pod))
    finally:
        subprocess.run([tool, "start", "minio"], check=True)
    replacement_pods(airflow, cluster, name, (dag_id, run_id), pod.metadata.uid)
    assert weights_of(newest_run(airflow.installation, dag_id)) == undisturbed


def stage_log(cluster: Cluster, pod: kubernetes.client.V1Pod) -> str:
    """A pod's log so far; empty if the pod no longer exists."""
    try:
        return str(cluster.core.read_namespaced_pod_log(pod.metadata.name, cluster.namespace))
    except kubernetes.client.ApiException:
        return ""


@pytest.mark.long
def test_a_worker_killed_at_the_end_leaves_the_output_and_no_pod(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes
) -> None:
    dag_id, run_id = start_run(airflow, "late", same_training(save_steps=20))
    wait_for(lambda: airflow.task(dag_id, run_id, "train")["state"] == "deferred")
    kill_worker(airflow, dag_id, run_id, "train", signal.SIGKILL)
    replacement_pods(airflow, cluster, "late", (dag_id, run_id), "")
    assert airflow.task(dag_id, run_id, "train")["try_number"] == 2
    assert not cluster.pods("late-train-")
    assert weights_of(newest_run(airflow.installation, dag_id)) == undisturbed


def test_terminating_a_worker_stops_its_short_stage(airflow: AirflowServer, cluster: Cluster) -> None:
    content = same_training(save_steps=30, evaluate={"max_examples": 100, "max_new_tokens": 128})
    dag_id, run_id = start_run(airflow, "stopped", content)
    (pod,) = wait_for(lambda: [p for p in active_pods(cluster, "stopped", "evaluate") if p.status.phase == "Running"])
    # A starting process does not handle signals yet and would finish within the pod's grace period.
    run = newest_run(airflow.installation, dag_id)
    wait_for(lambda: (status := run.statuses().get("evaluate")) is not None and status.state == "running")
    kill_worker(airflow, dag_id, run_id, "evaluate", signal.SIGTERM)
    wait_for(lambda: [p for p in active_pods(cluster, "stopped", "evaluate") if p.metadata.uid != pod.metadata.uid])
    assert final_state(airflow, dag_id, run_id) == "success"
    assert airflow.task(dag_id, run_id, "evaluate")["try_number"] == 2
