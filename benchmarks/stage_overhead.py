"""The overhead of a stage compared with the provider's operator: `make benchmark-stages SETTINGS=…`.

A recipe runs twice on the cluster in KUBECONFIG, through a real Airflow. In the same Airflow, the provider's
KubernetesPodOperator with its defaults runs pods of 3 s. The phases of a task, in seconds:

- hop: from the end of the previous task to the start of this task;
- before: until the pod exists (cache check, pod spec, request to the API server);
- pod: until the process starts its work (scheduling, image pull, container start, interpreter start);
- work: until the process has its result;
- after: until the task ends (process exit, its detection by the kubelet and by AirflowServer, log, removal of the pod).

The overhead is hop + before + after.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from airsmith.contracts.run import Run
from benchmarks.airflow_tasks import timestamp
from benchmarks.pod_times import PodTimes, WatchedPods, watched_pods
from demo.airflow_api import wait_until
from tests.cluster.airflow_server import AirflowServer, airflow_server
from tests.cluster.installation import Installation, install_airsmith, new_namespace

RUN_SECONDS = 900
RECIPE: dict[str, Any] = {
    "model": {"id": "airsmith/tiny-llama"},
    "dataset": {"id": "airsmith/ticket-triage", "validation_split": "validation", "max_length": 192},
    "method": {"r": 4},
    "training": {"max_steps": 20, "total_train_batch_size": 8, "save_steps": 10, "logging_steps": 5},
    "evaluate": {"max_examples": 4, "max_new_tokens": 8},
    "serve": {"enabled": False},
}
PEER_DAG = """
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from airflow.sdk import DAG
    from kubernetes.client import models as k8s

    RESTRICTED = {{"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {{"type": "RuntimeDefault"}}}}
    CONTAINER = {{"allowPrivilegeEscalation": False, "capabilities": {{"drop": ["ALL"]}}}}

    def pod(task_id, command, image="{cpu}", **options):
        script = f"started=$(date +%s.%N); {{command}}; echo $started $(date +%s.%N) > /dev/termination-log"
        return KubernetesPodOperator(
            task_id=task_id, name=task_id, namespace="{namespace}", image=image, cmds=["sh", "-c", script],
            security_context=RESTRICTED, container_security_context=CONTAINER, **options,
        )

    with DAG("peer", schedule=None):
        (
            pod("provider", "sleep 3")
            >> pod("provider_again", "sleep 3")
            >> pod("provider_deferred", "sleep 3", deferrable=True)
            >> pod("imports", "python -c 'import torch, transformers, peft'", image="{train}")
        )
"""


@dataclass(frozen=True)
class TaskTimes:
    """The phases of one task, in seconds; `pod` and `work` are 0 if the task needs no pod."""

    task: str
    hop: float
    before: float
    pod: float
    work: float
    after: float

    @property
    def overhead(self) -> float:
        """The task's seconds without its pod's start and its work."""
        return self.hop + self.before + self.after


def main() -> int:
    """Run the provider's operator, then the recipe twice, and print the tables."""
    images = Path(os.environ["AIRSMITH_TEST_SETTINGS"])
    with (
        new_namespace() as cluster,
        tempfile.TemporaryDirectory() as folder,
        install_airsmith(cluster, Path(folder), images) as installation,
        watched_pods(cluster) as watched,
    ):
        _write_peer(installation, cluster.namespace, images)
        dag_id = installation.write_recipe("measured", RECIPE)
        with airflow_server(installation) as airflow:
            console = Console(width=110)
            _print(console, "KubernetesPodOperator with its defaults", list(_peer_times(airflow, watched)))
            for title in ("Airsmith, first run", "Airsmith, all cached"):
                _print(console, title, list(_stage_times(airflow, dag_id, watched)))
    return 0


def _write_peer(installation: Installation, namespace: str, images: Path) -> None:
    reference = {
        name: image["reference"] for name, image in yaml.safe_load(images.read_text())["kubernetes"]["images"].items()
    }
    text = dedent(PEER_DAG).format(cpu=reference["cpu"], train=reference["train-cpu"], namespace=namespace)
    (installation.folder / "dags" / "peer.py").write_text(text)


def _peer_times(airflow: AirflowServer, watched: WatchedPods) -> Iterator[TaskTimes]:
    _, tasks = _finished_tasks(airflow, "peer")
    ended = timestamp(tasks[0]["queued_when"])
    for task in tasks:
        times = _pod_of(task, watched)
        assert times is not None, task
        started, done = (float(word) for word in times.termination_message.split())
        yield _task_times(task, ended, times.created_at, started, done)
        ended = timestamp(task["end_date"])


def _stage_times(airflow: AirflowServer, dag_id: str, watched: WatchedPods) -> Iterator[TaskTimes]:
    run_id, tasks = _finished_tasks(airflow, dag_id)
    run = next(run for run in reversed(airflow.installation.runs()) if run.read_spec().run_id == run_id)
    for task in tasks:
        start = timestamp(task["start_date"])
        earlier = [timestamp(other["end_date"]) for other in tasks if timestamp(other["end_date"]) <= start]
        ready = max(earlier, default=timestamp(task["queued_when"]))
        yield _stage_task_times(task, ready, run, _pod_of(task, watched))


def _stage_task_times(task: dict[str, Any], ready: float, run: Run, pod: PodTimes | None) -> TaskTimes:
    stage = task["task_id"].rpartition(".")[2]
    pointer = run.pointer(stage) if pod is not None and stage != "preflight" else None
    start, end = timestamp(task["start_date"]), timestamp(task["end_date"])
    if pod is None or pointer is None:
        return TaskTimes(stage, start - ready, 0, 0, end - start if pod else 0, 0 if pod else end - start)
    started = pointer.started_at.timestamp()
    return _task_times({**task, "task_id": stage}, ready, pod.created_at, started, started + pointer.seconds)


def _pod_of(task: dict[str, Any], watched: WatchedPods) -> PodTimes | None:
    return watched.pod_of(task["task_id"], timestamp(task["start_date"]), timestamp(task["end_date"]))


def _task_times(task: dict[str, Any], ready: float, created: float, started: float, done: float) -> TaskTimes:
    start, end = timestamp(task["start_date"]), timestamp(task["end_date"])
    return TaskTimes(task["task_id"], start - ready, created - start, started - created, done - started, end - done)


def _finished_tasks(airflow: AirflowServer, dag_id: str) -> tuple[str, list[dict[str, Any]]]:
    """Run a DAG and assert that it succeeds.

    :returns: the run's id, and its tasks ordered by their start.
    """
    airflow.api.wait_for_dag(dag_id, RUN_SECONDS)
    run_id = airflow.api.trigger(dag_id)
    wait_until(lambda: airflow.api.run_state(dag_id, run_id) in ("success", "failed"), RUN_SECONDS)
    assert airflow.api.run_state(dag_id, run_id) == "success", airflow.api.failed_tasks(dag_id, run_id)
    tasks = airflow.api.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
    return run_id, sorted(tasks, key=lambda task: str(task["start_date"]))


def _print(console: Console, title: str, times: list[TaskTimes]) -> None:
    table = Table(title=title, box=None, title_justify="left")
    table.add_column("task")
    for heading in ("hop", "before", "pod", "work", "after", "overhead"):
        table.add_column(heading, justify="right")
    for task in times:
        values = (task.hop, task.before, task.pod, task.work, task.after, task.overhead)
        table.add_row(task.task, *(f"{value:.1f}" for value in values))
    console.print(table)
    console.print(f"mean overhead: {sum(task.overhead for task in times) / len(times):.1f} s\n")


if __name__ == "__main__":
    sys.exit(main())
