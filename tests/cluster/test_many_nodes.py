"""Trainings on two nodes, by every engine: whatever dies, one job works, and the weights are the undisturbed ones."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import kubernetes
import pytest
from conftest import Cluster
from test_failures import has_trained, newest_run
from test_kills import clear, drained, kill_worker, log_of, same_training, weights_of
from test_one_pod_alive import end_of, start_run, wait_for

from airsmith.cluster.jobs import JOB_KINDS, Resource
from airsmith.cluster.labels import PREFIX
from tests.cluster import queueing
from tests.cluster.queueing import QUEUE, Queue
from tests.cluster.standalone import Airflow

pytestmark = pytest.mark.alone

NODES = 2
ENDED = ("success", "failed", "upstream_failed")
CPU = "250m"
"""Of each node: two of them fill the test's queue."""


def on_nodes(save_steps: int, job: str = "jobset", **backend: Any) -> dict[str, Any]:
    """The same training under many names, see `same_training`.

    It has a seed of its own: one that a single node has done would go on from that node's last checkpoint.
    """
    resources = {"cpu": CPU, "memory": "3Gi"}
    return same_training(save_steps, seed=71, backend={"nodes": NODES, "job": job, "resources": resources, **backend})


def is_installed(resource: Resource) -> bool:
    try:
        kubernetes.client.CustomObjectsApi().list_cluster_custom_object(
            resource.group, resource.version, resource.plural
        )
    except kubernetes.client.ApiException as refusal:
        if refusal.status == 404:
            return False
        raise
    return True


@pytest.fixture(params=["jobset", "trainjob", "rayjob"])
def engine(request: pytest.FixtureRequest, airflow: Airflow) -> str:
    name = str(request.param)
    if not is_installed(JOB_KINDS[name].RESOURCE):
        pytest.skip(f"the cluster has no {JOB_KINDS[name].RESOURCE.kind}")
    if name == "rayjob" and "train-cpu-ray" not in (airflow.deployment.folder / "airsmith.yaml").read_text():
        pytest.skip("no image train-cpu-ray, see `make images`")
    return name


@pytest.fixture(scope="module")
def undisturbed(airflow: Airflow) -> bytes:
    """Weights of the training that nobody disturbs."""
    if not is_installed(JOB_KINDS["jobset"].RESOURCE):
        pytest.skip("the cluster has no JobSet")
    dag_id, run_id = start_run(airflow, "calm", on_nodes(60))
    wait_for(lambda: airflow.task(dag_id, run_id, "train")["state"] in ENDED)
    assert airflow.task(dag_id, run_id, "train")["state"] == "success"
    assert "Training from the beginning" in log_of(airflow, dag_id, run_id, "train")
    end_run(airflow, dag_id, run_id)
    return weights_of(newest_run(airflow.deployment, dag_id))


def end_run(airflow: Airflow, dag_id: str, run_id: str) -> None:
    """What would follow is other tests' concern."""
    airflow.api.request("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})


def jobs_of(cluster: Cluster, name: str, job: str = "jobset") -> list[dict[str, Any]]:
    resource = JOB_KINDS[job].RESOURCE
    listed = kubernetes.client.CustomObjectsApi().list_namespaced_custom_object(
        resource.group, resource.version, cluster.namespace, resource.plural, label_selector=f"{PREFIX}recipe={name}"
    )
    return list(listed["items"])


def nodes_of(cluster: Cluster, name: str) -> list[kubernetes.client.V1Pod]:
    """The pods that train and are not ending."""
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
    """Whether a pod only hands a RayJob in."""
    labels = pod.metadata.labels
    return "batch.kubernetes.io/job-name" in labels and not any(name.startswith("jobset.") for name in labels)


def wait_until_training(airflow: Airflow, cluster: Cluster, name: str, dag_id: str) -> list[kubernetes.client.V1Pod]:
    """Wait for the first steps.

    :returns: the pods of the nodes, the leader's first.
    """
    wait_for(lambda: has_trained(airflow.deployment, dag_id, steps=12))
    pods = nodes_of(cluster, name)
    assert len(pods) == NODES
    return sorted(pods, key=rank_of)


def rank_of(pod: kubernetes.client.V1Pod) -> tuple[bool, str]:
    labels = pod.metadata.labels
    return labels.get("ray.io/node-type") == "worker", labels.get("batch.kubernetes.io/job-completion-index", "")


def assert_it_went_on(
    airflow: Airflow, cluster: Cluster, run: tuple[str, str], name: str, weights: bytes, job: str = "jobset"
) -> str:
    """The training ended well, with the undisturbed one's weights, and left no job.

    :returns: what its tries have said.
    """

    def has_finished() -> bool:
        assert len(jobs_of(cluster, name, job)) <= 1
        return airflow.task(*run, "train")["state"] in ENDED

    wait_for(has_finished)
    log = log_of(airflow, *run, "train")
    assert airflow.task(*run, "train")["state"] == "success", log
    assert "Going on from the checkpoint" in log
    assert weights_of(newest_run(airflow.deployment, run[0])) == weights
    wait_for(lambda: not nodes_of(cluster, name))
    end_run(airflow, *run)
    return log


def test_a_training_that_loses_a_node_goes_on_to_the_weights_of_an_undisturbed_one(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes, engine: str
) -> None:
    name = f"lost-{engine}"
    run = start_run(airflow, name, on_nodes({"jobset": 5, "trainjob": 6, "rayjob": 4}[engine], engine))
    pods = wait_until_training(airflow, cluster, name, run[0])
    assert len({pod.spec.node_name for pod in pods}) == min(NODES, len(cluster.core.list_node().items))
    cluster.core.delete_namespaced_pod(pods[1].metadata.name, cluster.namespace, grace_period_seconds=0)
    assert_it_went_on(airflow, cluster, run, name, undisturbed, engine)
    assert airflow.task(*run, "train")["try_number"] == 2
    assert not jobs_of(cluster, name, engine)


@pytest.mark.long
def test_the_leader_s_loss_is_made_good_as_well(airflow: Airflow, cluster: Cluster, undisturbed: bytes) -> None:
    run = start_run(airflow, "headless", on_nodes(7))
    pods = wait_until_training(airflow, cluster, "headless", run[0])
    cluster.core.delete_namespaced_pod(pods[0].metadata.name, cluster.namespace, grace_period_seconds=0)
    assert_it_went_on(airflow, cluster, run, "headless", undisturbed)


@pytest.mark.long
def test_a_cleared_training_publishes_one_checkpoint_and_its_next_try_goes_on(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes, engine: str
) -> None:
    name = f"cleared-{engine}"
    run = start_run(airflow, name, on_nodes({"jobset": 50, "trainjob": 49, "rayjob": 48}[engine], engine))
    wait_until_training(airflow, cluster, name, run[0])
    clear(airflow, *run, "train")
    assert_it_went_on(airflow, cluster, run, name, undisturbed, engine)


@pytest.mark.long
def test_a_drained_node_s_training_goes_on_elsewhere(airflow: Airflow, cluster: Cluster, undisturbed: bytes) -> None:
    run = start_run(airflow, "drained-nodes", on_nodes(8))
    pods = wait_until_training(airflow, cluster, "drained-nodes", run[0])
    with drained(cluster, pods[1]):
        assert_it_went_on(airflow, cluster, run, "drained-nodes", undisturbed)


@pytest.mark.long
def test_a_store_that_dies_while_checkpoints_are_uploaded_costs_nothing(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes
) -> None:
    tool = os.environ.get("AIRSMITH_TEST_CLUSTER_TOOL")
    if tool is None:
        pytest.skip("AIRSMITH_TEST_CLUSTER_TOOL names nothing that could kill and start this cluster's store")
    run = start_run(airflow, "storeless-nodes", on_nodes(3))
    (leader, _) = wait_until_training(airflow, cluster, "storeless-nodes", run[0])
    subprocess.run([tool, "kill", "minio"], check=True)

    def has_noticed() -> bool:
        try:
            log = cluster.core.read_namespaced_pod_log(leader.metadata.name, cluster.namespace)
        except kubernetes.client.ApiException:
            return True
        return "could not be written" in log or "store_unavailable" in log

    try:
        wait_for(has_noticed)
    finally:
        subprocess.run([tool, "start", "minio"], check=True)
    wait_for(lambda: airflow.task(*run, "train")["state"] in ENDED)
    assert airflow.task(*run, "train")["state"] == "success"
    assert weights_of(newest_run(airflow.deployment, run[0])) == undisturbed


@pytest.mark.long
def test_a_triggerer_that_dies_leaves_the_job_at_work(airflow: Airflow, cluster: Cluster, undisturbed: bytes) -> None:
    run = start_run(airflow, "triggerless-nodes", on_nodes(9))
    pods = wait_until_training(airflow, cluster, "triggerless-nodes", run[0])
    for process in airflow.processes("airflow", "triggerer"):
        process.kill()
    assert {pod.metadata.uid for pod in nodes_of(cluster, "triggerless-nodes")} == {pod.metadata.uid for pod in pods}
    airflow.start_triggerer()
    wait_for(lambda: airflow.task(*run, "train")["state"] in ENDED)
    assert airflow.task(*run, "train")["try_number"] == 1
    assert weights_of(newest_run(airflow.deployment, run[0])) == undisturbed


@pytest.mark.long
def test_a_worker_that_dies_leaves_a_job_that_the_next_try_adopts(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes
) -> None:
    run = start_run(airflow, "workerless-nodes", on_nodes(10))
    wait_for(lambda: jobs_of(cluster, "workerless-nodes"))
    if airflow.task(*run, "train")["state"] == "running":
        kill_worker(airflow, *run, "train", signal.SIGKILL)
    wait_for(lambda: airflow.task(*run, "train")["state"] in ENDED)
    assert airflow.task(*run, "train")["state"] == "success"
    assert weights_of(newest_run(airflow.deployment, run[0])) == undisturbed


@pytest.mark.long
def test_a_training_that_a_person_marks_failed_ends(airflow: Airflow, cluster: Cluster, engine: str) -> None:
    name = f"unwanted-{engine}"
    content = on_nodes(20, engine)
    content["training"]["max_steps"] = 4000
    run = start_run(airflow, name, content)
    wait_until_training(airflow, cluster, name, run[0])
    airflow.api.request("PATCH", f"dags/{run[0]}/dagRuns/{run[1]}/taskInstances/train", json={"new_state": "failed"})
    wait_for(lambda: not jobs_of(cluster, name, engine))
    wait_for(lambda: not nodes_of(cluster, name))
    assert end_of(airflow, *run) == "failed"


@pytest.fixture
def queue(cluster: Cluster) -> Iterator[Queue]:
    if not queueing.is_installed():
        pytest.skip("no queues: the cluster has no Kueue")
    with queueing.queue(cluster) as queue:
        yield queue


@pytest.mark.long
def test_a_job_waits_in_a_queue_and_goes_on_after_a_preemption(
    airflow: Airflow, cluster: Cluster, undisturbed: bytes, queue: Queue
) -> None:
    image = newest_run(airflow.deployment, "finetune_calm").read_spec().images["cpu"]
    queue.occupy("occupant", image, queue.highest)
    run = start_run(airflow, "queued-nodes", on_nodes(51, queue=QUEUE))
    wait_for(lambda: f"place 1 in queue {QUEUE}" in log_of(airflow, *run, "train"))
    assert not nodes_of(cluster, "queued-nodes")
    cluster.core.delete_namespaced_pod("occupant", cluster.namespace)
    wait_until_training(airflow, cluster, "queued-nodes", run[0])
    queue.occupy("preemptor", image, queue.highest)
    wait_for(lambda: not nodes_of(cluster, "queued-nodes"))
    cluster.core.delete_namespaced_pod("preemptor", cluster.namespace)
    assert_it_went_on(airflow, cluster, run, "queued-nodes", undisturbed)
    assert airflow.task(*run, "train")["try_number"] == 1
