"""What goes wrong with a pod ends as an error in words, or is made good; never two pods, never green for nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

import kubernetes
import pytest
import yaml
from conftest import Cluster, Deployment

from airsmith.artifacts.read import open_artifact
from airsmith.contracts.run import Run

WAIT_SECONDS = 600

_Found = TypeVar("_Found")


def recipe(seed: int, **sections: dict[str, Any]) -> dict[str, Any]:
    """A small training that no other test has done: its seed is its own. Several find room on a node of two cores.

    :param sections: what is added to a section.
    """
    half_a_core = {"resources": {"cpu": "500m"}}
    small: dict[str, dict[str, Any]] = {
        "model": {"id": "airsmith/tiny-llama"},
        "dataset": {"id": "airsmith/ticket-triage", "validation_split": "validation", "max_length": 192},
        "method": {"r": 4},
        "training": {"max_steps": 40, "total_train_batch_size": 8, "save_steps": 5, "logging_steps": 5, "seed": seed},
        "evaluate": {"max_examples": 4, "max_new_tokens": 8, **half_a_core},
        "serve": {"enabled": False},
        "backend": half_a_core,
    }
    return {name: {**small.get(name, {}), **sections.get(name, {})} for name in {**small, **sections}}


def wait_for(found: Callable[[], _Found | None], process: subprocess.Popen[bytes]) -> _Found:
    """Ask until there is something, as long as the process lives."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        answer = found()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"what was waited for did not come; the process: {process.poll()}")


def training_pods(cluster: Cluster, name: str) -> list[kubernetes.client.V1Pod]:
    return cluster.pods(f"{name}-train-")


def newest_run(deployment: Deployment, dag_id: str) -> Run:
    return next(run for run in reversed(deployment.runs()) if run.path.split("/")[1] == dag_id)


def has_trained(deployment: Deployment, dag_id: str, steps: int) -> bool:
    """Whether a DAG's newest run has done so many steps of its training. One with a stage that failed never will."""
    runs = [run for run in deployment.runs() if run.path.split("/")[1] == dag_id]
    if not runs:
        return False
    failed = {stage: status.error for stage, status in runs[-1].statuses().items() if status.state == "failed"}
    assert not failed, failed
    progress = runs[-1].progress()
    return progress is not None and progress.step >= steps


def failed_training(deployment: Deployment, dag_id: str, **environment: str) -> tuple[str, Run]:
    """Run a DAG whose training cannot succeed.

    :returns: what it said, and its run.
    """
    process = deployment.start("dags", "test", dag_id, **environment)
    process.wait()
    log = deployment.log_of(process)
    run = newest_run(deployment, dag_id)
    assert run.pointer("train") is None, log
    assert run.pointer("merge") is None
    return log, run


def settings_with(deployment: Deployment, name: str, **changes: Any) -> dict[str, str]:
    """A variable that names other settings."""
    settings = yaml.safe_load((deployment.folder / "airsmith.yaml").read_text())
    for key, value in changes.items():
        *sections, field = key.split("__")
        target = settings
        for section in sections:
            target = target[section]
        target[field] = value
    path = deployment.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return {"AIRSMITH_SETTINGS": str(path)}


def test_too_little_memory_is_said_with_the_limit_and_not_tried_again(deployment: Deployment, cluster: Cluster) -> None:
    dag_id = deployment.write_recipe("hungry", recipe(1, backend={"resources": {"memory": "150Mi"}}))
    log, run = failed_training(deployment, dag_id)
    assert "used more memory than its limit of 150Mi" in log
    assert "OutOfMemoryError" in log
    assert log.count("Building pod hungry-train-") == 1
    assert run.statuses()["train"].state == "failed"
    assert not training_pods(cluster, "hungry")


def test_a_pod_that_no_node_takes_is_said_in_the_schedulers_words(deployment: Deployment, cluster: Cluster) -> None:
    dag_id = deployment.write_recipe("vast", recipe(2, backend={"resources": {"cpu": "640"}}))
    impatient = settings_with(
        deployment,
        "impatient",
        kubernetes__check_placement=False,  # preflight would have said so before any stage began
        backends__cpu__startup_timeout_seconds=10,
        backends__cpu__retries=0,
    )
    log, run = failed_training(deployment, dag_id, **impatient)
    assert "Insufficient cpu" in run.statuses()["train"].error
    assert "UnschedulableError" in log
    assert not training_pods(cluster, "vast")


def test_an_image_that_is_not_there_is_said_at_once(deployment: Deployment, cluster: Cluster) -> None:
    dag_id = deployment.write_recipe("imageless", recipe(3))
    settings = yaml.safe_load((deployment.folder / "airsmith.yaml").read_text())
    image = dict(settings["kubernetes"]["images"]["train-cpu"])
    image["reference"] = image["reference"].rpartition("@")[0] + f"@sha256:{'0' * 64}"
    images = {**settings["kubernetes"]["images"], "train-cpu": image}
    broken = settings_with(deployment, "broken", kubernetes__images=images, backends__cpu__retries=0)
    process = deployment.start("dags", "test", dag_id, **broken)
    process.wait()
    log = deployment.log_of(process)
    assert "ImagePullFailedError" in log
    assert "kubernetes.image_pull_secrets" in log
    assert not cluster.pods("imageless-")


@pytest.mark.parametrize("grace_seconds", [0, pytest.param(30, marks=pytest.mark.long)])
def test_a_training_whose_pod_is_deleted_goes_on_to_its_end(
    deployment: Deployment, cluster: Cluster, grace_seconds: int
) -> None:
    name = f"deleted-{grace_seconds}"
    dag_id = deployment.write_recipe(name, recipe(10 + grace_seconds))
    process = deployment.start("dags", "test", dag_id)
    wait_for(lambda: has_trained(deployment, dag_id, 10), process)
    (pod,) = training_pods(cluster, name)
    cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.namespace, grace_period_seconds=grace_seconds)
    alive: set[str] = set()
    while process.poll() is None:
        now = [pod for pod in training_pods(cluster, name) if pod.status.phase in ("Pending", "Running")]
        assert len(now) <= 1
        alive |= {pod.metadata.uid for pod in now}
        time.sleep(0.2)
    log = deployment.finish(process)
    assert len(alive - {pod.metadata.uid}) == 1, log
    run = newest_run(deployment, dag_id)
    assert run.statuses()["train"].state == "done"
    adapter = open_artifact(run.store, run.pointer("train").location)  # type: ignore[union-attr]
    assert adapter is not None
