"""Helpers for tests that run a training DAG on the cluster: recipes, runs, their pods, and faults."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import kubernetes
import pytest
import yaml

from airsmith.artifacts.read import open_artifact
from airsmith.contracts.run import Run
from tests.cluster.airflow_server import AirflowServer
from tests.cluster.installation import Cluster, Installation

WAIT_SECONDS = 600
FINAL_STATES = ("success", "failed", "upstream_failed")

_Found = TypeVar("_Found")


def small_recipe(seed: int, **sections: dict[str, Any]) -> dict[str, Any]:
    """A small training. A seed used by no other test prevents reuse of outputs. Several fit on a node of two cores.

    :param sections: fields to add, by section.
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


def same_training(save_steps: int, seed: int = 70, **sections: Any) -> dict[str, Any]:
    """The same training as a different artifact: `save_steps` changes the digest and not the weights."""
    return small_recipe(seed, training={"save_steps": save_steps, "max_steps": 60}, **sections)


def wait_for(condition: Callable[[], _Found | None], process: subprocess.Popen[bytes] | None = None) -> _Found:
    """Poll until a condition returns something true.

    :param process: fail as soon as it exits.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"the condition did not become true; exit status of the process: {process and process.poll()}")


def settings_with(installation: Installation, name: str, **changes: Any) -> dict[str, str]:
    """An environment variable that names changed settings.

    :param changes: values by field; `__` separates sections.
    """
    settings = yaml.safe_load((installation.folder / "airsmith.yaml").read_text())
    for key, value in changes.items():
        *sections, field = key.split("__")
        target = settings
        for section in sections:
            target = target[section]
        target[field] = value
    path = installation.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return {"AIRSMITH_SETTINGS": str(path)}


def start_run(airflow: AirflowServer, name: str, content: dict[str, Any]) -> tuple[str, str]:
    """Write a recipe and trigger its DAG; return the ids of the DAG and the run."""
    dag_id = airflow.installation.write_recipe(name, content)
    airflow.api.wait_for_dag(dag_id, WAIT_SECONDS)
    return dag_id, airflow.api.trigger(dag_id)


def mark_run_failed(airflow: AirflowServer, dag_id: str, run_id: str) -> None:
    """Skip the tasks that follow: other tests cover them."""
    airflow.api.request("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})


def mark_task_failed(airflow: AirflowServer, dag_id: str, run_id: str, task_id: str) -> None:
    """Do what the button "Mark as failed" does."""
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
    airflow.api.request("PATCH", path, json={"new_state": "failed"})


def clear(airflow: AirflowServer, dag_id: str, run_id: str, task_id: str) -> None:
    """Do what the button "Clear" does."""
    request = {"dag_run_id": run_id, "task_ids": [task_id], "dry_run": False, "only_failed": False}
    airflow.api.request("POST", f"dags/{dag_id}/clearTaskInstances", json={**request, "reset_dag_runs": True})


def final_state(airflow: AirflowServer, dag_id: str, run_id: str) -> str:
    """Wait until a run is finished."""
    return wait_for(
        lambda: state if (state := airflow.api.run_state(dag_id, run_id)) in ("success", "failed") else None
    )


def finished_task(airflow: AirflowServer, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
    """Wait until a task instance is finished and return it."""

    def finished() -> dict[str, Any] | None:
        task = airflow.task(dag_id, run_id, task_id)
        return task if task["state"] in FINAL_STATES else None

    return wait_for(finished)


def task_log(airflow: AirflowServer, dag_id: str, run_id: str, task_id: str) -> str:
    """The log of all tries of a task; empty before the first one starts."""
    tries = range(1, airflow.task(dag_id, run_id, task_id)["try_number"] + 1)
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs"
    pages = (airflow.api.request("GET", f"{path}/{number}?map_index=-1") for number in tries)
    return "\n".join(str(line.get("event")) for page in pages for line in page["content"])


def kill_worker(airflow: AirflowServer, dag_id: str, run_id: str, task_id: str, sent: signal.Signals) -> None:
    """Send a signal to the process that runs a task, as soon as Airflow reports the task as running."""
    wait_for(lambda: airflow.task(dag_id, run_id, task_id)["state"] == "running")
    processes = airflow.processes("airflow worker -- ", airflow.task(dag_id, run_id, task_id)["id"])
    assert processes
    for process in processes:
        process.send_signal(sent)


def newest_run(installation: Installation, dag_id: str) -> Run:
    return next(run for run in reversed(installation.runs()) if run.path.split("/")[1] == dag_id)


def has_trained(installation: Installation, dag_id: str, steps: int = 5) -> bool:
    """Whether a DAG's newest run has completed that many training steps. Fails if one of its stages failed."""
    runs = [run for run in installation.runs() if run.path.split("/")[1] == dag_id]
    if not runs:
        return False
    failed = {stage: status.error for stage, status in runs[-1].statuses().items() if status.state == "failed"}
    assert not failed, failed
    progress = runs[-1].progress()
    return progress is not None and progress.step >= steps


def weights_of(run: Run) -> bytes:
    """The trained adapter, verified."""
    pointer = run.pointer("train")
    assert pointer is not None
    adapter = open_artifact(run.store, pointer.location)
    assert adapter is not None
    return adapter.read("adapter_model.safetensors")


def training_pods(cluster: Cluster, name: str) -> list[kubernetes.client.V1Pod]:
    return cluster.pods(f"{name}-train-")


def active_pods(cluster: Cluster, name: str, stage: str) -> list[kubernetes.client.V1Pod]:
    """The pods of a stage that are pending or running. There must never be two."""
    active = [pod for pod in cluster.pods(f"{name}-{stage}-") if pod.status.phase in ("Pending", "Running")]
    assert len(active) <= 1
    return active


@contextmanager
def drained(cluster: Cluster, pod: kubernetes.client.V1Pod) -> Iterator[None]:
    """Cordon a pod's node and evict the pod, as `kubectl drain` does; pods of other tests stay."""
    node = pod.spec.node_name
    others = [
        other for other in cluster.core.list_node().items if other.metadata.name != node and not other.spec.taints
    ]
    if not others:
        pytest.skip("no other node can run the training")
    cluster.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        eviction = kubernetes.client.V1Eviction(
            metadata=kubernetes.client.V1ObjectMeta(name=pod.metadata.name, namespace=cluster.namespace)
        )
        cluster.core.create_namespaced_pod_eviction(pod.metadata.name, cluster.namespace, eviction)
        yield
    finally:
        cluster.core.patch_node(node, {"spec": {"unschedulable": False}})
