"""Whoever dies or is told to stop, at most one pod of a stage works: it is adopted, or it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
import psutil
import pytest
from conftest import Cluster, Deployment
from test_failures import newest_run, recipe

from demo.airflow_api import AirflowApi, Login, is_healthy, wait_until

WAIT_SECONDS = 240

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Airflow:
    """A real Airflow on the deployment: API server, scheduler with its workers, DAG processor, triggerer."""

    deployment: Deployment
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    api: AirflowApi
    replacements: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_triggerer(self) -> None:
        """A new triggerer, as whatever supervises a real one would start."""
        self.replacements.append(self.deployment.start("triggerer", **self.environment))

    def processes(self, *words: str) -> list[psutil.Process]:
        """Airflow's processes whose command line has all of the words."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if all(word in " ".join(process.cmdline()) for word in words):
                    found.append(process)
        return found

    def task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """A task instance as the API shows it."""
        return dict(self.api.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"))


@pytest.fixture(scope="module")
def airflow(deployment: Deployment) -> Iterator[Airflow]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    }
    process = deployment.start("standalone", **environment)
    try:
        assert wait_until(lambda: is_healthy(address), WAIT_SECONDS, 0.5), deployment.log_of(process)
        api = AirflowApi(address, Login.read(deployment.folder / "airflow"))
        airflow = Airflow(deployment, process, environment, api)
        yield airflow
        for replacement in airflow.replacements:
            replacement.terminate()
            replacement.wait()
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=20)
        for straggler in alive:
            straggler.kill()
        process.wait()


def wait_for(found: Callable[[], _Found | None]) -> _Found:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError("what was waited for did not come")


def pods_of(cluster: Cluster, name: str, stage: str) -> list[kubernetes.client.V1Pod]:
    pods = [pod for pod in cluster.pods() if pod.metadata.name.startswith(f"{name}-{stage}-")]
    working = [pod for pod in pods if pod.status.phase in ("Pending", "Running")]
    assert len(working) <= 1
    return working


def start_run(airflow: Airflow, name: str, content: dict[str, Any]) -> tuple[str, str]:
    dag_id = airflow.deployment.write_recipe(name, content)
    airflow.api.wait_for_dag(dag_id, WAIT_SECONDS)
    return dag_id, airflow.api.trigger(dag_id)


def is_training(airflow: Airflow, dag_id: str) -> bool:
    runs = [run for run in airflow.deployment.runs() if run.path.split("/")[1] == dag_id]
    progress = runs[-1].progress() if runs else None
    return progress is not None and progress.step >= 5


def end_of(airflow: Airflow, dag_id: str, run_id: str) -> str:
    return wait_for(
        lambda: state if (state := airflow.api.run_state(dag_id, run_id)) in ("success", "failed") else None
    )


def test_a_triggerer_that_dies_leaves_the_training_at_work(airflow: Airflow, cluster: Cluster) -> None:
    dag_id, run_id = start_run(airflow, "triggerless", recipe(50, training={"max_steps": 120}))
    wait_for(lambda: is_training(airflow, dag_id))
    (pod,) = pods_of(cluster, "triggerless", "train")
    for process in airflow.processes("airflow", "triggerer"):
        process.kill()
    time.sleep(2)
    assert [left.metadata.uid for left in pods_of(cluster, "triggerless", "train")] == [pod.metadata.uid]
    airflow.start_triggerer()
    assert end_of(airflow, dag_id, run_id) == "success"
    assert newest_run(airflow.deployment, dag_id).statuses()["train"].state == "done"
    assert airflow.task(dag_id, run_id, "train")["try_number"] == 1


def test_a_training_that_a_person_marks_failed_ends(airflow: Airflow, cluster: Cluster) -> None:
    dag_id, run_id = start_run(airflow, "unwanted", recipe(51, training={"max_steps": 4000}))
    wait_for(lambda: is_training(airflow, dag_id))
    assert airflow.task(dag_id, run_id, "train")["state"] == "deferred"
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/train"
    airflow.api.request("PATCH", path, json={"new_state": "failed"})
    wait_for(lambda: not pods_of(cluster, "unwanted", "train"))
    assert end_of(airflow, dag_id, run_id) == "failed"


def test_the_pod_of_a_worker_that_is_killed_is_adopted(airflow: Airflow, cluster: Cluster) -> None:
    content = recipe(52, evaluate={"max_examples": 200, "max_new_tokens": 256})
    dag_id, run_id = start_run(airflow, "orphan", content)
    (pod,) = wait_for(lambda: [p for p in pods_of(cluster, "orphan", "evaluate") if p.status.phase == "Running"])
    task_instance = airflow.task(dag_id, run_id, "evaluate")["id"]
    at_work = airflow.processes("airflow worker -- ", task_instance)
    assert at_work
    for process in at_work:
        process.kill()
    adopted = pods_of(cluster, "orphan", "evaluate")
    assert end_of(airflow, dag_id, run_id) == "success"
    assert airflow.task(dag_id, run_id, "evaluate")["try_number"] == 2
    assert newest_run(airflow.deployment, dag_id).pointer("evaluate") is not None
    assert {seen.metadata.uid for seen in adopted} <= {pod.metadata.uid}
