"""A Git bundle delivers DAGs and recipes: each run is pinned to its commit; code comes from the installed package."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from airsmith.contracts.run import Run
from demo.airflow_api import AirflowApi, Login, is_healthy, wait_until
from demo.hub.server import Hub
from tests.support.airflow_home import TINY_RECIPE, AirflowHome
from tests.support.airflow_standalone import free_address, standalone_environment, stop_standalone
from tests.support.git_repository import GitRepository, make_git_repository
from tests.support.repository import REPOSITORY

WAIT_SECONDS = 600
STRAY_MODULE = 'raise ImportError("this came from the bundle")\n'


@dataclass(frozen=True)
class Airflow:
    """A running Airflow whose only DAGs are those of the Git repository."""

    airflow_home: AirflowHome
    log: Path
    api: AirflowApi

    def finish(self, dag_id: str, run_id: str) -> Run:
        """Wait for a run and assert that it succeeds."""

        def has_finished() -> bool:
            return self.api.run_state(dag_id, run_id) in ("success", "failed")

        assert wait_until(has_finished, WAIT_SECONDS)
        assert self.api.run_state(dag_id, run_id) == "success", self.api.failed_tasks(dag_id, run_id)
        return next(run for run in self.airflow_home.runs() if run.read_spec().run_id == run_id)

    def commit_of(self, dag_id: str, run_id: str) -> str:
        """The commit that Airflow pins a run to."""
        return str(self.api.request("GET", f"dags/{dag_id}/dagRuns/{run_id}")["bundle_version"])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> GitRepository:
    """A repository with one recipe, and modules that would hide the installed ones if Airflow imported them."""
    repository = make_git_repository(tmp_path_factory.mktemp("git"))
    dags = repository.working_copy / "dags"
    (dags / "recipes").mkdir(parents=True)
    finetune = REPOSITORY / "dags" / "finetune.py"
    (dags / finetune.name).write_text(finetune.read_text())
    for stray in (dags / "airsmith" / "__init__.py", dags / "airsmith_plugin.py"):
        stray.parent.mkdir(exist_ok=True)
        stray.write_text(STRAY_MODULE)
    repository.push("One recipe", pushed=_recipe(steps=2))
    return repository


@pytest.fixture(scope="module")
def airflow(hub: Hub, repository: GitRepository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = AirflowHome(tmp_path_factory.mktemp("git-bundle"), hub.url)
    address = free_address()
    process = home.start("airflow", "standalone", **_airflow_environment(address, home, repository))
    log = home.logs[process.pid]
    try:
        assert wait_until(lambda: is_healthy(address), WAIT_SECONDS, 0.5), log.read_text()
        yield Airflow(home, log, AirflowApi(address, Login.read(home.airflow_folder)))
    finally:
        stop_standalone(process)


def _airflow_environment(address: str, home: AirflowHome, repository: GitRepository) -> dict[str, str]:
    bundle = {
        "name": "recipes",
        "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
        "kwargs": {"repo_url": str(repository.bare), "tracking_ref": "main", "subdir": "dags", "refresh_interval": 1},
    }
    return {
        **standalone_environment(address),
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home.folder / "bundles"),
    }


def _recipe(steps: int) -> dict[str, Any]:
    training = {**TINY_RECIPE["training"], "max_steps": steps}
    return {**TINY_RECIPE, "training": training, "serve": {"enabled": False}}


def test_a_push_delivers_recipes_and_a_run_keeps_its_commit(repository: GitRepository, airflow: Airflow) -> None:
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


def test_a_request_is_retried_while_the_database_is_locked(airflow: Airflow) -> None:
    def count_locked_writes() -> int:
        return airflow.log.read_text().count("INSERT INTO log")

    airflow.api.wait_for_dag("finetune_pushed", WAIT_SECONDS)
    before = count_locked_writes()
    with (
        ThreadPoolExecutor(1) as executor,
        closing(sqlite3.connect(airflow.airflow_home.airflow_folder / "airflow.db")) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        response = executor.submit(airflow.api.request, "PATCH", "dags/finetune_pushed", json={"is_paused": False})
        try:
            assert wait_until(lambda: count_locked_writes() > before, WAIT_SECONDS)
        finally:
            database.rollback()
        assert response.result()["is_paused"] is False
