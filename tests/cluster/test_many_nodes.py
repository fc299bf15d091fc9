"""Trainings on two nodes, for each job kind: after any failure, one job runs and the weights stay the same."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import kubernetes
import pytest

from airsmith.cluster.jobs import JOB_KINDS
from airsmith.cluster.labels import PREFIX
from tests.cluster import kueue
from tests.cluster.airflow_server import AirflowServer
from tests.cluster.dag_runs import (
    FINAL_STATES,
    clear,
    drained,
    final_state,
    finished_task,
    has_trained,
    kill_worker,
    mark_run_failed,
    mark_task_failed,
    newest_run,
    same_training,
    start_run,
    task_log,
    wait_for,
    weights_of,
)
from tests.cluster.installation import Cluster, is_served
from tests.cluster.kueue import QUEUE, Queue

pytestmark = [pytest.mark.alone, pytest.mark.images("cpu", "train-cpu")]

NODES = 2
CPU = "250m"
"""Requested by each node; two nodes fill the test's queue."""


def on_nodes(save_steps: int, job: str = "jobset", **backend: Any) -> dict[str, Any]:
    """`same_training` on two nodes.

    Its seed differs from that of the trainings on one node: it would otherwise resume from their checkpoints.
    """
    resources = {"cpu": CPU, "memory": "3Gi"}
    return same_training(save_steps, seed=71, backend={"nodes": NODES, "job": job, "resources": resources, **backend})


def is_installed(job_kind: str) -> bool:
    resource = JOB_KINDS[job_kind].RESOURCE
    return is_served(resource.group, resource.version, resource.plural)


RAYJOB = pytest.param("rayjob", marks=pytest.mark.images("train-cpu-ray"))
each_job_kind = pytest.mark.parametrize("job_kind", ["jobset", "trainjob", RAYJOB], indirect=True)


@pytest.fixture
def job_kind(request: pytest.FixtureRequest, airflow: AirflowServer) -> str:
    name = str(request.param)
    if not is_installed(name):
        pytest.skip(f"the cluster has no {JOB_KINDS[name].RESOURCE.kind}")
    if name == "rayjob" and "train-cpu-ray" not in (airflow.installation.folder / "airsmith.yaml").read_text():
        pytest.skip("no image train-cpu-ray, see `make images`")
    return name


@pytest.fixture(scope="module")
def undisturbed(airflow: AirflowServer) -> bytes:
    """Weights of the undisturbed training."""
    if not is_installed("jobset"):
        pytest.skip("the cluster has no JobSet")
    dag_id, run_id = start_run(airflow, "calm", on_nodes(60))
    assert finished_task(airflow, dag_id, run_id, "train")["state"] == "success"
    assert "Training from the beginning" in task_log(airflow, dag_id, run_id, "train")
    mark_run_failed(airflow, dag_id, run_id)
    return weights_of(newest_run(airflow.installation, dag_id))


def jobs_of(cluster: Cluster, name: str, job: str = "jobset") -> list[dict[str, Any]]:
    resource = JOB_KINDS[job].RESOURCE
    listed = kubernetes.client.CustomObjectsApi().list_namespaced_custom_object(
        resource.group, resource.version, cluster.namespace, resource.plural, label_selector=f"{PREFIX}recipe={name}"
    )
    return list(listed["items"])


def node_pods(cluster: Cluster, name: str) -> list[kubernetes.client.V1Pod]:
    """The training pods that are not terminating."""
    selector = f"{PREFIX}recipe={name},{PREFIX}stage=train"
    pods = cluster.core.list_namespaced_pod(cluster.namespace, label_selector=selector).items
    return [
        pod
        for pod in pods
        if pod.status.phase in ("Pending", "Running")
        and pod.metadata.deletion_timestamp is None
        and not is_submitter(pod)
    ]


def is_submitter(pod: kubernetes.client.V1Pod) -> bool:
    """Whether a pod only submits a RayJob."""
    labels = pod.metadata.labels
    return "batch.kubernetes.io/job-name" in labels and not any(name.startswith("jobset.") for name in labels)


def wait_until_training(
    airflow: AirflowServer, cluster: Cluster, name: str, dag_id: str
) -> list[kubernetes.client.V1Pod]:
    """Wait for the first training steps; return the nodes' pods, the leader's first."""
    wait_for(lambda: has_trained(airflow.installation, dag_id, steps=12))
    pods = node_pods(cluster, name)
    assert len(pods) == NODES
    return sorted(pods, key=rank_of)


def rank_of(pod: kubernetes.client.V1Pod) -> tuple[bool, str]:
    labels = pod.metadata.labels
    return labels.get("ray.io/node-type") == "worker", labels.get("batch.kubernetes.io/job-completion-index", "")


def assert_it_resumed(
    airflow: AirflowServer, cluster: Cluster, run: tuple[str, str], name: str, weights: bytes, job: str = "jobset"
) -> None:
    """Wait until a training succeeds with the undisturbed weights and leaves no pod."""

    def is_finished() -> bool:
        assert len(jobs_of(cluster, name, job)) <= 1
        return airflow.task(*run, "train")["state"] in FINAL_STATES

    wait_for(is_finished)
    log = task_log(airflow, *run, "train")
    assert airflow.task(*run, "train")["state"] == "success", log
    assert "Resuming from the checkpoint" in log
    assert weights_of(newest_run(airflow.installation, run[0])) == weights
    wait_for(lambda: not node_pods(cluster, name))
    mark_run_failed(airflow, *run)


@pytest.mark.parametrize(
    "job_kind", [pytest.param("jobset", marks=pytest.mark.core), "trainjob", RAYJOB], indirect=True
)
def test_a_training_that_loses_a_node_resumes_to_the_same_weights(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes, job_kind: str
) -> None:
    name = f"lost-{job_kind}"
    run = start_run(airflow, name, on_nodes({"jobset": 5, "trainjob": 6, "rayjob": 4}[job_kind], job_kind))
    pods = wait_until_training(airflow, cluster, name, run[0])
    assert len({pod.spec.node_name for pod in pods}) == min(NODES, len(cluster.core.list_node().items))
    cluster.core.delete_namespaced_pod(pods[1].metadata.name, cluster.namespace, grace_period_seconds=0)
    assert_it_resumed(airflow, cluster, run, name, undisturbed, job_kind)
    assert airflow.task(*run, "train")["try_number"] == 2
    assert not jobs_of(cluster, name, job_kind)


@pytest.mark.long
def test_a_training_that_loses_its_leader_resumes_to_the_same_weights(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes
) -> None:
    run = start_run(airflow, "headless", on_nodes(7))
    pods = wait_until_training(airflow, cluster, "headless", run[0])
    cluster.core.delete_namespaced_pod(pods[0].metadata.name, cluster.namespace, grace_period_seconds=0)
    assert_it_resumed(airflow, cluster, run, "headless", undisturbed)


@pytest.mark.long
@each_job_kind
def test_the_next_try_of_a_cleared_training_resumes_from_its_checkpoint(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes, job_kind: str
) -> None:
    name = f"cleared-{job_kind}"
    run = start_run(airflow, name, on_nodes({"jobset": 50, "trainjob": 49, "rayjob": 48}[job_kind], job_kind))
    wait_until_training(airflow, cluster, name, run[0])
    clear(airflow, *run, "train")
    assert_it_resumed(airflow, cluster, run, name, undisturbed, job_kind)


@pytest.mark.long
def test_a_training_on_a_drained_node_resumes_on_another_node(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes
) -> None:
    run = start_run(airflow, "drained-nodes", on_nodes(8))
    pods = wait_until_training(airflow, cluster, "drained-nodes", run[0])
    with drained(cluster, pods[1]):
        assert_it_resumed(airflow, cluster, run, "drained-nodes", undisturbed)


@pytest.mark.long
def test_a_training_survives_a_store_outage_during_checkpoints(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes
) -> None:
    tool = os.environ.get("AIRSMITH_TEST_CLUSTER_TOOL")
    if tool is None:
        pytest.skip("AIRSMITH_TEST_CLUSTER_TOOL is not set, so the store cannot be stopped")
    run = start_run(airflow, "store-outage-nodes", on_nodes(3))
    (leader, _) = wait_until_training(airflow, cluster, "store-outage-nodes", run[0])
    subprocess.run([tool, "kill", "minio"], check=True)

    def outage_is_logged() -> bool:
        try:
            log = cluster.core.read_namespaced_pod_log(leader.metadata.name, cluster.namespace)
        except kubernetes.client.ApiException:
            return True
        return "could not be written" in log or "store_unavailable" in log

    try:
        wait_for(outage_is_logged)
    finally:
        subprocess.run([tool, "start", "minio"], check=True)
    assert finished_task(airflow, *run, "train")["state"] == "success"
    assert weights_of(newest_run(airflow.installation, run[0])) == undisturbed


@pytest.mark.long
def test_a_job_survives_the_triggerers_death(airflow: AirflowServer, cluster: Cluster, undisturbed: bytes) -> None:
    run = start_run(airflow, "triggerless-nodes", on_nodes(9))
    pods = wait_until_training(airflow, cluster, "triggerless-nodes", run[0])
    for process in airflow.processes("airflow", "triggerer"):
        process.kill()
    assert {pod.metadata.uid for pod in node_pods(cluster, "triggerless-nodes")} == {pod.metadata.uid for pod in pods}
    airflow.start_triggerer()
    assert finished_task(airflow, *run, "train")["try_number"] == 1
    assert weights_of(newest_run(airflow.installation, run[0])) == undisturbed


@pytest.mark.long
def test_the_next_try_adopts_the_job_of_a_killed_worker(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes
) -> None:
    run = start_run(airflow, "workerless-nodes", on_nodes(10))
    wait_for(lambda: jobs_of(cluster, "workerless-nodes"))
    if airflow.task(*run, "train")["state"] == "running":
        kill_worker(airflow, *run, "train", signal.SIGKILL)
    assert finished_task(airflow, *run, "train")["state"] == "success"
    assert weights_of(newest_run(airflow.installation, run[0])) == undisturbed


@pytest.mark.long
@each_job_kind
def test_marking_a_training_failed_deletes_its_job(airflow: AirflowServer, cluster: Cluster, job_kind: str) -> None:
    name = f"unwanted-{job_kind}"
    content = on_nodes(20, job_kind)
    content["training"]["max_steps"] = 4000
    run = start_run(airflow, name, content)
    wait_until_training(airflow, cluster, name, run[0])
    mark_task_failed(airflow, *run, "train")
    wait_for(lambda: not jobs_of(cluster, name, job_kind))
    wait_for(lambda: not node_pods(cluster, name))
    assert final_state(airflow, *run) == "failed"


@pytest.fixture
def queue(cluster: Cluster) -> Iterator[Queue]:
    if not kueue.is_installed():
        pytest.skip("the cluster has no Kueue")
    with kueue.queue(cluster) as queue:
        yield queue


@pytest.mark.long
def test_a_job_waits_in_a_queue_and_resumes_after_a_preemption(
    airflow: AirflowServer, cluster: Cluster, undisturbed: bytes, queue: Queue
) -> None:
    image = newest_run(airflow.installation, "finetune_calm").read_spec().images["cpu"]
    queue.fill("occupant", image, queue.highest)
    run = start_run(airflow, "queued-nodes", on_nodes(51, queue=QUEUE))
    wait_for(lambda: f"place 1 in queue {QUEUE}" in task_log(airflow, *run, "train"))
    assert not node_pods(cluster, "queued-nodes")
    cluster.core.delete_namespaced_pod("occupant", cluster.namespace)
    wait_until_training(airflow, cluster, "queued-nodes", run[0])
    queue.fill("preemptor", image, queue.highest)
    wait_for(lambda: not node_pods(cluster, "queued-nodes"))
    cluster.core.delete_namespaced_pod("preemptor", cluster.namespace)
    assert_it_resumed(airflow, cluster, run, "queued-nodes", undisturbed)
    assert airflow.task(*run, "train")["try_number"] == 1
