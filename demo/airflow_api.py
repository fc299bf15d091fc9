"""The few calls of Airflow's REST API that the demo makes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PASSWORDS_FILE = "simple_auth_manager_passwords.json.generated"
"""Where the simple auth manager keeps the login that it made up, in AIRFLOW_HOME."""

LOCKED_TRIES = 6
"""How often a call is made that Airflow's database, SQLite here, holds up: 5 s each time."""


@dataclass(frozen=True)
class Login:
    """User and password of the Airflow UI."""

    username: str
    password: str

    @classmethod
    def read(cls, airflow_home: Path) -> Login:
        """The login that Airflow generated at its first start."""
        passwords = json.loads((airflow_home / PASSWORDS_FILE).read_text())
        return cls("admin", passwords["admin"])


class AirflowApi:
    """Airflow's REST API behind one login.

    :param address: for example `http://127.0.0.1:8080`.
    """

    def __init__(self, address: str, login: Login) -> None:
        self._client = httpx.Client(base_url=address, timeout=120)
        token = self._client.post("/auth/token", json={"username": login.username, "password": login.password})
        token.raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def wait_for_dag(self, dag_id: str, timeout_seconds: float) -> None:
        """Wait until the DAG file is parsed.

        :raises TimeoutError: with Airflow's import errors, where it is not there in time.
        """

        def is_there() -> bool:
            return self._client.get(f"/api/v2/dags/{dag_id}").status_code == 200

        if not wait_until(is_there, timeout_seconds):
            raise TimeoutError(f"Airflow shows no DAG {dag_id}. Its import errors: {self._import_errors() or 'none'}")

    def trigger(self, dag_id: str) -> str:
        """Start a run with the recipe as it is.

        :returns: the run's id.
        """
        self.request("PATCH", f"dags/{dag_id}", json={"is_paused": False})
        return str(self.request("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None})["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a run: `queued`, `running`, `success` or `failed`."""
        return str(self.request("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def failed_tasks(self, dag_id: str, run_id: str) -> list[str]:
        """Ids of the tasks that failed themselves."""
        tasks = self.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return [task["task_id"] for task in tasks if task["state"] == "failed"]

    def request(self, method: str, path: str, **content: Any) -> Any:
        """One call, made again where the database was locked.

        Airflow writes its audit log on the API server's event loop, and there waits for SQLite's only writer: it may
        be a task's own call, which cannot commit before that loop goes on. Both wait until SQLite gives up the first;
        nothing of it was written.

        :param path: behind `/api/v2/`.
        :param content: keyword arguments of httpx, for example `json`.
        :raises RuntimeError: with Airflow's own words, where it refuses.
        """
        for _ in range(LOCKED_TRIES):
            answer = self._client.request(method, f"/api/v2/{path}", **content)
            if not (answer.status_code == 500 and "Database error" in answer.text):
                break
        if answer.is_error:
            raise RuntimeError(f"Airflow answered {answer.status_code} to {answer.request.url}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def _import_errors(self) -> str:
        errors = self._client.get("/api/v2/importErrors").json().get("import_errors", [])
        return "; ".join(error["stack_trace"].strip().splitlines()[-1] for error in errors)


def is_healthy(address: str) -> bool:
    """Whether Airflow's API server, scheduler and DAG processor all say that they are well."""
    try:
        health = httpx.get(f"{address}/api/v2/monitor/health", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return False
    return all(
        health.get(part, {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")
    )


def wait_until(holds: Callable[[], bool], timeout_seconds: float, poll_seconds: float = 0.25) -> bool:
    """Ask again and again until it holds or the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(poll_seconds)
    return holds()
