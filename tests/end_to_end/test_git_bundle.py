"""DAGs and recipes come by git: a push brings them, a run stays with its commit, code stays with the installation."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from airsmith.contracts.run import Run
from demo.airflow_api import AirflowApi, Login, is_healthy, wait_until
from tests.end_to_end.house import RECIPE, House

WAIT_SECONDS = 600
STRAY_MODULE = 'raise ImportError("this came from the bundle")\n'


@dataclass(frozen=True)
class Repository:
    """A bare repository, and the working copy that is pushed to it."""

    bare: Path
    copy: Path

    @classmethod
    def make(cls, folder: Path) -> Repository:
        """An empty one whose branch is `main`."""
        repository = cls(folder / "recipes.git", folder / "copy")
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", repository.bare], check=True)
        subprocess.run(["git", "clone", "--quiet", repository.bare, repository.copy], check=True)
        repository.git("checkout", "--quiet", "-B", "main")
        return repository

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.invalid")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.copy, check=True, capture_output=True, text=True).stdout.strip()

    def push(self, message: str, **recipes: dict[str, Any]) -> str:
        """Commit recipes and push them.

        :returns: the commit.
        """
        for name, recipe in recipes.items():
            (self.copy / "dags" / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.git("push", "--quiet", "origin", "main")
        return self.git("rev-parse", "HEAD")


@dataclass(frozen=True)
class Airflow:
    """An Airflow whose only DAGs are those of the repository."""

    house: House
    home: Path
    log: Path
    api: AirflowApi

    def finish(self, dag_id: str, run_id: str) -> Run:
        """Wait for a run's good end."""

        def has_finished() -> bool:
            return self.api.run_state(dag_id, run_id) in ("success", "failed")

        assert wait_until(has_finished, WAIT_SECONDS)
        assert self.api.run_state(dag_id, run_id) == "success", self.api.failed_tasks(dag_id, run_id)
        return next(run for run in self.house.runs() if run.read_spec().run_id == run_id)

    def commit_of(self, dag_id: str, run_id: str) -> str:
        """The commit that Airflow has pinned a run to."""
        return str(self.api.request("GET", f"dags/{dag_id}/dagRuns/{run_id}")["bundle_version"])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository.make(tmp_path_factory.mktemp("git"))
    dags = repository.copy / "dags"
    (dags / "recipes").mkdir(parents=True)
    finetune = Path(__file__).parents[2] / "dags" / "finetune.py"
    (dags / finetune.name).write_text(finetune.read_text())
    for stray in (dags / "airsmith" / "__init__.py", dags / "airsmith_plugin.py"):
        stray.parent.mkdir(exist_ok=True)
        stray.write_text(STRAY_MODULE)
    repository.push("One recipe", pushed=_recipe(steps=2))
    return repository


@pytest.fixture(scope="module")
def airflow(house: House, repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    home = tmp_path_factory.mktemp("airflow")
    process = house.start("airflow", "standalone", **_airflow_environment(address, home, repository))
    try:
        assert wait_until(lambda: is_healthy(address), WAIT_SECONDS, 0.5), house.logs[process.pid].read_text()
        yield Airflow(house, home, house.logs[process.pid], AirflowApi(address, Login.read(home)))
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=20)
        for straggler in alive:
            straggler.kill()
        process.wait()


def _airflow_environment(address: str, home: Path, repository: Repository) -> dict[str, str]:
    bundle = {
        "name": "recipes",
        "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
        "kwargs": {"repo_url": str(repository.bare), "tracking_ref": "main", "subdir": "dags", "refresh_interval": 1},
    }
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": address.rsplit(":", 1)[1],
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
    }


def _recipe(steps: int) -> dict[str, Any]:
    training = {**RECIPE["training"], "max_steps": steps}
    return {**RECIPE, "training": training, "serve": {"enabled": False}}


def test_a_push_brings_recipes_and_a_run_stays_with_the_commit_it_began_with(
    repository: Repository, airflow: Airflow
) -> None:
    first = repository.git("rev-parse", "HEAD")
    airflow.api.wait_for_dag("finetune_pushed", WAIT_SECONDS)
    run_id = airflow.api.trigger("finetune_pushed")
    assert airflow.commit_of("finetune_pushed", run_id) == first

    second = repository.push("A longer training, and another recipe", pushed=_recipe(steps=3), another=_recipe(steps=2))
    airflow.api.wait_for_dag("finetune_another", WAIT_SECONDS)
    spec = airflow.finish("finetune_pushed", run_id).read_spec()
    assert (spec.bundle_version, spec.airsmith_version) == (first, version("airsmith"))
    assert spec.recipe.training.max_steps == 2

    airflow.api.request(
        "POST",
        "dags/finetune_pushed/clearTaskInstances",
        json={"dag_run_id": run_id, "dry_run": False, "only_failed": False, "reset_dag_runs": True},
    )
    spec = airflow.finish("finetune_pushed", run_id).read_spec()
    assert (spec.bundle_version, spec.recipe.training.max_steps) == (first, 2)

    later = airflow.finish("finetune_pushed", airflow.api.trigger("finetune_pushed")).read_spec()
    assert (later.bundle_version, later.recipe.training.max_steps) == (second, 3)


def test_a_call_that_finds_the_database_locked_is_made_again(airflow: Airflow) -> None:
    def locked_times() -> int:
        return airflow.log.read_text().count("INSERT INTO log")

    airflow.api.wait_for_dag("finetune_pushed", WAIT_SECONDS)
    before = locked_times()
    with ThreadPoolExecutor(1) as caller, closing(sqlite3.connect(airflow.home / "airflow.db")) as database:
        database.execute("BEGIN IMMEDIATE")
        call = caller.submit(airflow.api.request, "PATCH", "dags/finetune_pushed", json={"is_paused": False})
        try:
            assert wait_until(lambda: locked_times() > before, WAIT_SECONDS)
        finally:
            database.rollback()
        assert call.result()["is_paused"] is False
