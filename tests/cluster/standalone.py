"""A real Airflow on a deployment: API server, scheduler with its workers, DAG processor, triggerer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from demo.airflow_api import AirflowApi, Login, is_healthy, wait_until
from tests.cluster.deploying import Deployment

START_SECONDS = 600


@dataclass(frozen=True)
class Airflow:
    """What runs, and how to ask it."""

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


@contextmanager
def standalone(deployment: Deployment, **variables: str) -> Iterator[Airflow]:
    """Airflow at work as long as the block lasts.

    :param variables: Airflow's own configuration beside what a test needs.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {**_environment(address), **variables}
    process = deployment.start("standalone", **environment)
    try:
        assert wait_until(lambda: is_healthy(address), START_SECONDS, 0.5), deployment.log_of(process)
        airflow = Airflow(
            deployment, process, environment, AirflowApi(address, Login.read(deployment.folder / "airflow"))
        )
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


def _environment(address: str) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": address.rsplit(":", 1)[1],
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    }
