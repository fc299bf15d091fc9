"""A client for the part of Airflow's REST API that the demo uses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PASSWORDS_FILE = "simple_auth_manager_passwords.json.generated"
"""The file in AIRFLOW_HOME in which the simple auth manager stores its generated password."""

MAX_ATTEMPTS_IF_LOCKED = 6
"""Attempts of a request while Airflow's database (SQLite here) is locked; each attempt waits 5 s for the lock."""


@dataclass(frozen=True)
class Login:
    """User and password of the Airflow UI."""

    username: str
    password: str

    @classmethod
    def read(cls, airflow_home: Path) -> Login:
        """Read the login that Airflow generates at its first start."""
        passwords = json.loads((airflow_home / PASSWORDS_FILE).read_text())
        return cls("admin", passwords["admin"])


class AirflowApi:
    """A client for Airflow's REST API.

    :param address: for example `http://127.0.0.1:8080`.
    """

    def __init__(self, address: str, login: Login) -> None:
        self._client = httpx.Client(base_url=address, timeout=120)
        token = self._client.post("/auth/token", json={"username": login.username, "password": login.password})
        token.raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def wait_for_dag(self, dag_id: str, timeout_seconds: float) -> None:
        """Wait until Airflow has parsed the DAG.

        :raises TimeoutError: the DAG does not appear in time; the message contains Airflow's import errors.
        """

        def exists() -> bool:
            return self._client.get(f"/api/v2/dags/{dag_id}").status_code == 200

        if not wait_until(exists, timeout_seconds):
            errors = self._import_errors() or "none"
            raise TimeoutError(f"DAG {dag_id} did not appear within {timeout_seconds:g} s. Import errors: {errors}")

    def trigger(self, dag_id: str) -> str:
        """Unpause the DAG and start a run with its default parameters.

        :returns: the run's id.
        """
        self.request("PATCH", f"dags/{dag_id}", json={"is_paused": False})
        return str(self.request("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None})["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run: `queued`, `running`, `success` or `failed`."""
        return str(self.request("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def failed_tasks(self, dag_id: str, run_id: str) -> list[str]:
        """Ids of the tasks in state `failed`, without those whose upstream task failed."""
        tasks = self.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return [task["task_id"] for task in tasks if task["state"] == "failed"]

    def request(self, method: str, path: str, **content: Any) -> Any:
        """Send a request; retry it while the database is locked.

        Airflow writes its audit log on the API server's event loop, which then waits for SQLite's only writer. That
        writer may be a task's request, which cannot commit while the event loop is blocked. Both wait until SQLite
        aborts the audit log's transaction, of which nothing is written, so a retry is safe.

        :param path: relative to `/api/v2/`.
        :param content: keyword arguments of httpx, for example `json`.
        :raises RuntimeError: Airflow responds with an error; the message contains the response.
        """
        for _ in range(MAX_ATTEMPTS_IF_LOCKED):
            response = self._client.request(method, f"/api/v2/{path}", **content)
            if not (response.status_code == 500 and "Database error" in response.text):
                break
        if response.is_error:
            raise RuntimeError(
                f"Airflow responded to {response.request.url} with {response.status_code}: {response.text[:500]}"
            )
        return response.json() if response.content else None

    def _import_errors(self) -> str:
        errors = self._client.get("/api/v2/importErrors").json().get("import_errors", [])
        return "; ".join(error["stack_trace"].strip().splitlines()[-1] for error in errors)


def is_healthy(address: str) -> bool:
    """Whether Airflow's API server reports a healthy database, scheduler and DAG processor."""
    try:
        health = httpx.get(f"{address}/api/v2/monitor/health", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return False
    return all(
        health.get(part, {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")
    )


def wait_until(condition: Callable[[], bool], timeout_seconds: float, poll_seconds: float = 0.25) -> bool:
    """Poll a condition until it is true or the timeout expires.

    :returns: whether the condition is true.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(poll_seconds)
    return condition()
