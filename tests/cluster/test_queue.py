"""Trainings in a Kueue queue: they wait without a worker, log their position and resume after a preemption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from airsmith.settings import load_settings
from tests.cluster import kueue
from tests.cluster.airflow_server import AirflowServer
from tests.cluster.dag_runs import (
    active_pods,
    has_trained,
    mark_run_failed,
    mark_task_failed,
    newest_run,
    settings_with,
    small_recipe,
    start_run,
    task_log,
    wait_for,
)
from tests.cluster.installation import Cluster, Installation
from tests.cluster.kueue import QUEUE, TRAINING_CPU, Queue

pytestmark = pytest.mark.images("cpu", "train-cpu")

STARTUP_SECONDS = 12
"""Startup timeout of a pod. The wait in the queue takes longer."""


@pytest.fixture(scope="module")
def queue(cluster: Cluster) -> Iterator[Queue]:
    if not kueue.is_installed():
        pytest.skip("the cluster has no Kueue")
    with kueue.queue(cluster) as queue:
        yield queue


@pytest.fixture(scope="module", autouse=True)
def short_startup_timeout(installation: Installation, queue: Queue) -> Iterator[None]:
    """Change the settings for this file's runs: every task and every parse reads them."""
    settings = installation.folder / "airsmith.yaml"
    original = settings.read_text()
    changed = settings_with(installation, "impatient", backends__cpu__startup_timeout_seconds=STARTUP_SECONDS)
    Path(changed["AIRSMITH_SETTINGS"]).replace(settings)
    yield
    settings.write_text(original)


def queued_recipe(seed: int, **backend: Any) -> dict[str, Any]:
    backend = {"queue": QUEUE, "resources": {"cpu": TRAINING_CPU}, **backend}
    return small_recipe(seed, training={"max_steps": 80}, backend=backend)


def age_seconds(pod: kubernetes.client.V1Pod) -> float:
    return (datetime.now(timezone.utc) - pod.metadata.creation_timestamp).total_seconds()


def position(number: int) -> str:
    return f"Waiting: place {number} in queue {QUEUE}. Kueue: couldn't assign flavors to pod set main"


def test_a_queued_training_logs_its_position_and_survives_preemption(
    airflow: AirflowServer, queue: Queue, cluster: Cluster
) -> None:
    image = load_settings(airflow.installation.environment).kubernetes.images["cpu"].reference
    queue.fill("occupant", image, queue.highest)
    low_priority = start_run(airflow, "low_priority", queued_recipe(60))
    wait_for(lambda: position(1) in task_log(airflow, *low_priority, "train"))
    assert airflow.task(*low_priority, "train")["state"] == "deferred"

    # A higher priority moves a training ahead of one that already waits.
    important = start_run(airflow, "important", queued_recipe(61, priority=queue.high))
    wait_for(lambda: position(1) in task_log(airflow, *important, "train"))
    wait_for(lambda: position(2) in task_log(airflow, *low_priority, "train"))

    # Marking a waiting training failed deletes its pod.
    mark_task_failed(airflow, *low_priority, "train")
    wait_for(lambda: not active_pods(cluster, "low_priority", "train"))

    # Waiting longer than the startup timeout is not a failure.
    (waiting,) = active_pods(cluster, "important", "train")
    wait_for(lambda: age_seconds(waiting) > STARTUP_SECONDS)
    assert airflow.task(*important, "train")["state"] == "deferred"
    cluster.core.delete_namespaced_pod("occupant", cluster.namespace)
    wait_for(lambda: has_trained(airflow.installation, important[0]))

    # A preempted training waits again and resumes.
    queue.fill("preemptor", image, queue.highest)
    wait_for(lambda: [pod for pod in active_pods(cluster, "important", "train") if pod.spec.scheduling_gates])
    cluster.core.delete_namespaced_pod("preemptor", cluster.namespace)
    wait_for(lambda: airflow.task(*important, "train")["state"] == "success")
    log = task_log(airflow, *important, "train")
    assert "Preempted to accommodate a workload" in log
    resumed = re.search(r"Resuming from the checkpoint of step (\d+)", log)
    assert resumed is not None, log
    assert f"SIGTERM stopped the training at step {resumed[1]} of" in log
    assert airflow.task(*important, "train")["try_number"] == 1
    assert newest_run(airflow.installation, important[0]).statuses()["train"].state == "done"
    mark_run_failed(airflow, *important)


def test_pods_without_a_queue_are_not_managed_by_kueue(airflow: AirflowServer, queue: Queue, cluster: Cluster) -> None:
    made = cluster.core.list_namespaced_event(cluster.namespace, field_selector="reason=CreatedWorkload").items
    queued = {event.involved_object.name for event in made}
    assert queued
    assert all("-train-" in name or name in ("occupant", "preemptor") for name in queued)
