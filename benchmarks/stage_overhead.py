"""Where the seconds of a stage go, beside those of the provider's operator: `make benchmark-stages SETTINGS=…`.

A recipe runs twice on the cluster that KUBECONFIG names, through a real Airflow; in the same Airflow, the provider's
KubernetesPodOperator with its defaults runs pods of three seconds. Per task:

- hop: from the end of the task before it to its own start;
- before: until its pod exists (the cache check, the spec, the hand-over to the API server);
- pod: until its process is at work (scheduling, pull, container, interpreter);
- work: until its process has its result;
- after: until the task has ended (the process's end, kubelet's and our noticing, the log, the pod's removal).

Airsmith's share, or the provider's, is hop + before + after.
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
from benchmarks.airflow_tasks import seconds
from benchmarks.pod_times import PodTimes, Watched, watched_pods
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
        script = f"begun=$(date +%s.%N); {{command}}; echo $begun $(date +%s.%N) > /dev/termination-log"
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
    """One task's seconds; `pod` and `work` are 0 where no pod was needed."""

    task: str
    hop: float
    before: float
    pod: float
    work: float
    after: float

    @property
    def share(self) -> float:
        """What the task costs beyond its pod and its work."""
        return self.hop + self.before + self.after


def main() -> int:
    """Run the peer, the recipe and the recipe again, and print the tables."""
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
            _print(console, "KubernetesPodOperator, its defaults", list(_peer_times(airflow, watched)))
            for title in ("Airsmith, first run", "Airsmith, all cached"):
                _print(console, title, list(_stage_times(airflow, dag_id, watched)))
    return 0


def _write_peer(installation: Installation, namespace: str, images: Path) -> None:
    reference = {
        name: image["reference"] for name, image in yaml.safe_load(images.read_text())["kubernetes"]["images"].items()
    }
    text = dedent(PEER_DAG).format(cpu=reference["cpu"], train=reference["train-cpu"], namespace=namespace)
    (installation.folder / "dags" / "peer.py").write_text(text)


def _peer_times(airflow: AirflowServer, watched: Watched) -> Iterator[TaskTimes]:
    _, tasks = _finished_tasks(airflow, "peer")
    ended = seconds(tasks[0]["queued_when"])
    for task in tasks:
        times = _pod_of(task, watched)
        assert times is not None, task
        begun, done = (float(word) for word in times.last_words.split())
        yield _task_times(task, ended, times.created_at, begun, done)
        ended = seconds(task["end_date"])


def _stage_times(airflow: AirflowServer, dag_id: str, watched: Watched) -> Iterator[TaskTimes]:
    run_id, tasks = _finished_tasks(airflow, dag_id)
    run = next(run for run in reversed(airflow.installation.runs()) if run.read_spec().run_id == run_id)
    for task in tasks:
        start = seconds(task["start_date"])
        earlier = [seconds(other["end_date"]) for other in tasks if seconds(other["end_date"]) <= start]
        ready = max(earlier, default=seconds(task["queued_when"]))
        yield _stage_task_times(task, ready, run, _pod_of(task, watched))


def _stage_task_times(task: dict[str, Any], ready: float, run: Run, pod: PodTimes | None) -> TaskTimes:
    stage = task["task_id"].rpartition(".")[2]
    pointer = run.pointer(stage) if pod is not None and stage != "preflight" else None
    start, end = seconds(task["start_date"]), seconds(task["end_date"])
    if pod is None or pointer is None:
        return TaskTimes(stage, start - ready, 0, 0, end - start if pod else 0, 0 if pod else end - start)
    begun = pointer.started_at.timestamp()
    return _task_times({**task, "task_id": stage}, ready, pod.created_at, begun, begun + pointer.seconds)


def _pod_of(task: dict[str, Any], watched: Watched) -> PodTimes | None:
    return watched.pod_of(task["task_id"], seconds(task["start_date"]), seconds(task["end_date"]))


def _task_times(task: dict[str, Any], ready: float, created: float, begun: float, done: float) -> TaskTimes:
    start, end = seconds(task["start_date"]), seconds(task["end_date"])
    return TaskTimes(task["task_id"], start - ready, created - start, begun - created, done - begun, end - done)


def _finished_tasks(airflow: AirflowServer, dag_id: str) -> tuple[str, list[dict[str, Any]]]:
    """A run's id and its tasks, in the order of their starts, once all have ended well."""
    airflow.api.wait_for_dag(dag_id, RUN_SECONDS)
    run_id = airflow.api.trigger(dag_id)
    wait_until(lambda: airflow.api.run_state(dag_id, run_id) in ("success", "failed"), RUN_SECONDS)
    assert airflow.api.run_state(dag_id, run_id) == "success", airflow.api.failed_tasks(dag_id, run_id)
    tasks = airflow.api.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
    return run_id, sorted(tasks, key=lambda task: str(task["start_date"]))


def _print(console: Console, title: str, times: list[TaskTimes]) -> None:
    table = Table(title=title, box=None, title_justify="left")
    table.add_column("task")
    for heading in ("hop", "before", "pod", "work", "after", "share"):
        table.add_column(heading, justify="right")
    for task in times:
        values = (task.hop, task.before, task.pod, task.work, task.after, task.share)
        table.add_row(task.task, *(f"{value:.1f}" for value in values))
    console.print(table)
    console.print(f"mean share {sum(task.share for task in times) / len(times):.1f} s\n")


if __name__ == "__main__":
    sys.exit(main())
