"""Trainings in a queue of the real Kueue: they wait without a worker and say where, and go on after a preemption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from test_failures import newest_run, recipe, settings_with
from test_one_pod_alive import is_training, pods_of, start_run, wait_for

from airsmith.settings import load_settings
from tests.cluster import queueing
from tests.cluster.deploying import Cluster, Deployment
from tests.cluster.queueing import QUEUE, TRAINING_CPU, Queue
from tests.cluster.standalone import Airflow

STARTUP_SECONDS = 12
"""Longest wait for a pod's node and image; waiting in a queue takes longer here."""


@pytest.fixture(scope="module")
def queue(cluster: Cluster) -> Iterator[Queue]:
    if not queueing.is_installed():
        pytest.skip("no queues: the cluster has no Kueue")
    with queueing.queue(cluster) as queue:
        yield queue


@pytest.fixture(scope="module", autouse=True)
def impatience(deployment: Deployment, queue: Queue) -> Iterator[None]:
    """Settings are read by every task and at every parse: these hold for this file's runs."""
    settings = deployment.folder / "airsmith.yaml"
    patient = settings.read_text()
    changed = settings_with(deployment, "impatient", backends__cpu__startup_timeout_seconds=STARTUP_SECONDS)
    Path(changed["AIRSMITH_SETTINGS"]).replace(settings)
    yield
    settings.write_text(patient)


def queued_recipe(seed: int, **backend: Any) -> dict[str, Any]:
    backend = {"queue": QUEUE, "resources": {"cpu": TRAINING_CPU}, **backend}
    return recipe(seed, training={"max_steps": 80}, backend=backend)


def log_of(airflow: Airflow, dag_id: str, run_id: str) -> str:
    """The log of the training's first try, as the UI shows it; empty before it begins."""
    if airflow.task(dag_id, run_id, "train")["try_number"] == 0:
        return ""
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/train/logs/1"
    return "\n".join(str(line.get("event")) for line in airflow.api.request("GET", path)["content"])


def age_seconds(pod: kubernetes.client.V1Pod) -> float:
    return (datetime.now(timezone.utc) - pod.metadata.creation_timestamp).total_seconds()


def end_run(airflow: Airflow, dag_id: str, run_id: str) -> None:
    """What would follow is other tests' concern."""
    airflow.api.request("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})


def place(number: int) -> str:
    return f"Waiting: place {number} in queue {QUEUE}. Kueue: couldn't assign flavors to pod set main"


def test_a_queued_training_waits_its_turn_says_its_place_and_survives_a_preemption(
    airflow: Airflow, queue: Queue, cluster: Cluster
) -> None:
    image = load_settings(airflow.deployment.environment).kubernetes.images["cpu"].reference
    queue.occupy("occupant", image, queue.highest)
    humble = start_run(airflow, "humble", queued_recipe(60))
    wait_for(lambda: place(1) in log_of(airflow, *humble))
    assert airflow.task(*humble, "train")["state"] == "deferred"

    # A recipe's priority is honoured: it comes before one that waits already.
    important = start_run(airflow, "important", queued_recipe(61, priority=queue.high))
    wait_for(lambda: place(1) in log_of(airflow, *important))
    wait_for(lambda: place(2) in log_of(airflow, *humble))

    # A person who does not want to wait any longer leaves nothing behind.
    path = "dags/{}/dagRuns/{}/taskInstances/train".format(*humble)
    airflow.api.request("PATCH", path, json={"new_state": "failed"})
    wait_for(lambda: not pods_of(cluster, "humble", "train"))

    # Who waits longer than a start may take has not failed for that.
    (waiting,) = pods_of(cluster, "important", "train")
    wait_for(lambda: age_seconds(waiting) > STARTUP_SECONDS)
    assert airflow.task(*important, "train")["state"] == "deferred"
    cluster.core.delete_namespaced_pod("occupant", cluster.namespace)
    wait_for(lambda: is_training(airflow, important[0]))

    # Whose place is taken waits again, and goes on.
    queue.occupy("preemptor", image, queue.highest)
    wait_for(lambda: [pod for pod in pods_of(cluster, "important", "train") if pod.spec.scheduling_gates])
    cluster.core.delete_namespaced_pod("preemptor", cluster.namespace)
    wait_for(lambda: airflow.task(*important, "train")["state"] == "success")
    log = log_of(airflow, *important)
    assert "Preempted to accommodate a workload" in log
    resumed = re.search(r"Resuming from the checkpoint of step (\d+)", log)
    assert resumed is not None, log
    assert f"SIGTERM stopped the training at step {resumed[1]} of" in log
    assert airflow.task(*important, "train")["try_number"] == 1
    assert newest_run(airflow.deployment, important[0]).statuses()["train"].state == "done"
    end_run(airflow, *important)


def test_pods_that_no_queue_is_named_for_are_left_alone(airflow: Airflow, queue: Queue, cluster: Cluster) -> None:
    made = cluster.core.list_namespaced_event(cluster.namespace, field_selector="reason=CreatedWorkload").items
    queued = {event.involved_object.name for event in made}
    assert queued
    assert all("-train-" in name or name in ("occupant", "preemptor") for name in queued)
