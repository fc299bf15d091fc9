"""A pod's failure ends as a typed error or is repaired: never two pods of a stage, never success without output."""

from __future__ import annotations

import time

import pytest
import yaml

from airsmith.artifacts.read import open_artifact
from airsmith.contracts.run import Run
from tests.cluster.dag_runs import has_trained, newest_run, settings_with, small_recipe, training_pods, wait_for
from tests.cluster.installation import Cluster, Installation

pytestmark = pytest.mark.images("cpu", "train-cpu")


def failed_training(installation: Installation, dag_id: str, **environment: str) -> tuple[str, Run]:
    """Run a DAG whose training cannot succeed; return its log and its run."""
    process = installation.start("dags", "test", dag_id, **environment)
    process.wait()
    log = installation.log_of(process)
    run = newest_run(installation, dag_id)
    assert run.pointer("train") is None, log
    assert run.pointer("merge") is None
    return log, run


@pytest.mark.core
def test_out_of_memory_error_names_the_limit_and_is_not_retried(installation: Installation, cluster: Cluster) -> None:
    dag_id = installation.write_recipe("hungry", small_recipe(1, backend={"resources": {"memory": "150Mi"}}))
    log, run = failed_training(installation, dag_id)
    assert "used more memory than its limit of 150Mi" in log
    assert "OutOfMemoryError" in log
    assert log.count("Building pod hungry-train-") == 1
    assert run.statuses()["train"].state == "failed"
    assert not training_pods(cluster, "hungry")


def test_an_unschedulable_pod_fails_with_the_schedulers_message(installation: Installation, cluster: Cluster) -> None:
    dag_id = installation.write_recipe("vast", small_recipe(2, backend={"resources": {"cpu": "640"}}))
    impatient = settings_with(
        installation,
        "impatient",
        kubernetes__check_placement=False,  # preflight would report it before any stage starts
        backends__cpu__startup_timeout_seconds=10,
        backends__cpu__retries=0,
    )
    log, run = failed_training(installation, dag_id, **impatient)
    assert "Insufficient cpu" in run.statuses()["train"].error
    assert "UnschedulableError" in log
    assert not training_pods(cluster, "vast")


def test_a_missing_image_fails_at_once(installation: Installation, cluster: Cluster) -> None:
    dag_id = installation.write_recipe("imageless", small_recipe(3))
    settings = yaml.safe_load((installation.folder / "airsmith.yaml").read_text())
    image = dict(settings["kubernetes"]["images"]["train-cpu"])
    image["reference"] = image["reference"].rpartition("@")[0] + f"@sha256:{'0' * 64}"
    images = {**settings["kubernetes"]["images"], "train-cpu": image}
    broken = settings_with(installation, "broken", kubernetes__images=images, backends__cpu__retries=0)
    process = installation.start("dags", "test", dag_id, **broken)
    process.wait()
    log = installation.log_of(process)
    assert "ImagePullFailedError" in log
    assert "kubernetes.image_pull_secrets" in log
    assert not cluster.pods("imageless-")


@pytest.mark.parametrize(
    "grace_seconds", [pytest.param(0, marks=pytest.mark.core), pytest.param(30, marks=pytest.mark.long)]
)
def test_a_training_whose_pod_is_deleted_resumes_and_succeeds(
    installation: Installation, cluster: Cluster, grace_seconds: int
) -> None:
    name = f"deleted-{grace_seconds}"
    dag_id = installation.write_recipe(name, small_recipe(10 + grace_seconds))
    process = installation.start("dags", "test", dag_id)
    wait_for(lambda: has_trained(installation, dag_id, 10), process)
    (pod,) = training_pods(cluster, name)
    cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.namespace, grace_period_seconds=grace_seconds)
    alive: set[str] = set()
    while process.poll() is None:
        now = [pod for pod in training_pods(cluster, name) if pod.status.phase in ("Pending", "Running")]
        assert len(now) <= 1
        alive |= {pod.metadata.uid for pod in now}
        time.sleep(0.2)
    log = installation.finish(process)
    assert len(alive - {pod.metadata.uid}) == 1, log
    run = newest_run(installation, dag_id)
    assert run.statuses()["train"].state == "done"
    adapter = open_artifact(run.store, run.pointer("train").location)  # type: ignore[union-attr]
    assert adapter is not None
