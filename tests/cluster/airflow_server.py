"""A running Airflow: API server, scheduler with its workers, DAG processor, triggerer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from demo.airflow_api import AirflowApi, Login, is_healthy, wait_until
from tests.cluster.installation import Installation
from tests.support.airflow_standalone import free_address, standalone_environment, stop_standalone

START_SECONDS = 600


@dataclass(frozen=True)
class AirflowServer:
    """A running Airflow and the client of its API."""

    installation: Installation
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    api: AirflowApi
    replacements: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_triggerer(self) -> None:
        """Start a new triggerer, as a supervisor would."""
        self.replacements.append(self.installation.start("triggerer", **self.environment))

    def processes(self, *words: str) -> list[psutil.Process]:
        """Airflow's processes whose command line contains all the words."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if all(word in " ".join(process.cmdline()) for word in words):
                    found.append(process)
        return found

    def task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """A task instance as the API returns it."""
        return dict(self.api.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"))


@contextmanager
def airflow_server(installation: Installation, **variables: str) -> Iterator[AirflowServer]:
    """Run Airflow for the duration of the block.

    :param variables: additional environment variables.
    """
    address = free_address()
    environment = {**_environment(address), **variables}
    process = installation.start("standalone", **environment)
    try:
        assert wait_until(lambda: is_healthy(address), START_SECONDS, 0.5), installation.log_of(process)
        airflow = AirflowServer(
            installation, process, environment, AirflowApi(address, Login.read(installation.folder / "airflow"))
        )
        yield airflow
        for replacement in airflow.replacements:
            replacement.terminate()
            replacement.wait()
    finally:
        stop_standalone(process)


def _environment(address: str) -> dict[str, str]:
    return {
        **standalone_environment(address),
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    }
