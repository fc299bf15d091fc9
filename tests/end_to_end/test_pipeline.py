"""The real DAG with real stage processes and a local Hub, from the recipe to the endpoint."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.stage_process import StageProcess, bring_to_output
from airsmith.settings import Settings
from tests.support.airflow_home import AirflowHome

DAG_ID = "finetune_tiny"
STAGES = (
    "mirror_model", "mirror_dataset", "tokenize", "train", "merge", "evaluate", "register", "deploy", "smoke_test",
)  # fmt: skip
WAIT_SECONDS = 600

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class DagRun:
    """A finished `airflow dags test`, and its output."""

    run: Run
    log: str

    @property
    def run_id(self) -> str:
        return self.run.read_spec().run_id


@pytest.fixture(scope="session")
def first_run(airflow_home: AirflowHome) -> DagRun:
    """A run of the DAG whose training is killed (SIGKILL) after its first checkpoint."""
    process = airflow_home.start("airflow", "dags", "test", DAG_ID)
    stage = wait_for(lambda: stage_process_of(process.pid, "train"), process)
    wait_for(lambda: has_checkpoint(airflow_home.store), process)
    stage.kill()
    return DagRun(log=airflow_home.finish(process), run=airflow_home.runs()[-1])


@pytest.fixture(scope="session")
def second_run(airflow_home: AirflowHome, first_run: DagRun) -> DagRun:
    """A second run with unchanged inputs."""
    return DagRun(
        log=airflow_home.finish(airflow_home.start("airflow", "dags", "test", DAG_ID)), run=airflow_home.runs()[-1]
    )


def test_every_stage_points_to_a_verified_output(first_run: DagRun):
    run = first_run.run
    for stage in STAGES:
        pointer = run.pointer(stage)
        assert pointer is not None, stage
        assert run.statuses()[stage].state == "done"
        if pointer.location.startswith("artifacts/"):
            assert_verified(output(run, stage))


def test_a_killed_training_is_retried_immediately(airflow_home: AirflowHome, first_run: DagRun):
    attempts = dict(
        query(airflow_home, "select task_id, try_number from task_instance where run_id = ?", first_run.run_id)
    )
    assert attempts.pop("train") == 2
    assert set(attempts.values()) == {1}
    assert "The process of stage train was killed by another process (SIGKILL)." in first_run.log
    assert "StageKilledError" in first_run.log


def test_a_killed_training_gives_the_weights_of_an_uninterrupted_one(
    airflow_home: AirflowHome, first_run: DagRun, tmp_path: Path
):
    run = copy_without(first_run.run, "train", tmp_path)
    bring_to_output("train", run, settings_for(airflow_home, run), print_line)
    killed, uninterrupted = output(first_run.run, "train"), output(run, "train")
    assert killed.digest == uninterrupted.digest
    assert killed.read("adapter_model.safetensors") == uninterrupted.read("adapter_model.safetensors")


def test_each_run_adds_an_asset_event_with_metrics(airflow_home: AirflowHome, first_run: DagRun, second_run: DagRun):
    events = query(
        airflow_home,
        "select event.extra from asset_event event join asset on asset.id = event.asset_id "
        "where asset.name = 'model/tiny' order by event.id",
    )
    first, second = (json.loads(extra) for (extra,) in events)
    assert (first["run"], second["run"]) == (first_run.run.uri, second_run.run.uri)
    assert first["version"] == second["version"] == "1"
    assert {"exact_match_base", "exact_match_tuned", "loss_tuned"} <= set(first)


def test_a_second_run_reuses_every_output(first_run: DagRun, second_run: DagRun):
    assert {stage: status.state for stage, status in second_run.run.statuses().items()} == dict.fromkeys(
        STAGES, "cached"
    )
    for stage in STAGES:
        assert location(second_run.run, stage) == location(first_run.run, stage)


def test_the_cli_runs_the_same_stages_to_the_same_outputs(airflow_home: AirflowHome, second_run: DagRun):
    lines = airflow_home.finish(airflow_home.start("airsmith", "run", "tiny")).splitlines()
    run = airflow_home.runs()[-1]
    assert lines[0] == f"run {run.uri}"
    assert [line.split(":")[0] for line in lines if ": reused in " in line] == list(STAGES)
    assert {stage: location(run, stage) for stage in STAGES} == {
        stage: location(second_run.run, stage) for stage in STAGES
    }


def test_tasks_exchange_only_the_runs_uri(airflow_home: AirflowHome, first_run: DagRun):
    values = query(airflow_home, "select task_id, key, value from xcom where run_id = ?", first_run.run_id)
    exchanged = {(task, json.loads(value)) for task, key, value in values if not key.startswith("_link_")}
    assert exchanged == {("resolve", first_run.run.uri)}


@pytest.mark.parametrize("stage", ["mirror_model", "tokenize", "merge"])
def test_a_stage_killed_while_publishing_leaves_no_partial_output(
    airflow_home: AirflowHome, first_run: DagRun, tmp_path: Path, stage: str
):
    run = copy_without(first_run.run, stage, tmp_path)
    folder = location(first_run.run, stage)

    def kill_while_publishing(process: StageProcess) -> None:
        victim = wait_for(lambda: stage_process_of(process.guard.pid, stage))
        threading.Thread(target=kill_when, args=(victim, lambda: any(run.store.list(folder)))).start()

    with pytest.raises(AirsmithError) as failure:
        bring_to_output(stage, run, settings_for(airflow_home, run), print_line, on_start=kill_while_publishing)
    assert failure.value.kind is ErrorKind.KILLED
    assert run.pointer(stage) is None
    assert open_artifact(run.store, folder) is None
    bring_to_output(stage, run, settings_for(airflow_home, run), print_line)
    assert_verified(output(run, stage))


def test_a_training_stops_when_its_parent_is_killed(airflow_home: AirflowHome, first_run: DagRun, tmp_path: Path):
    run = copy_without(first_run.run, "train", tmp_path)
    code = (
        "from airsmith.contracts.run import Run; from airsmith.settings import load_settings;"
        "from airsmith.process.stage_process import bring_to_output;"
        f"bring_to_output('train', Run.open({run.uri!r}), load_settings(), print)"
    )
    parent = airflow_home.start("python", "-c", code, AIRSMITH_STORE=run.store.uri)
    stage = wait_for(lambda: stage_process_of(parent.pid, "train"), parent)
    wait_for(lambda: has_checkpoint(run.store), parent)
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(stage))
    assert run.pointer("train") is None


def print_line(level: int, line: str) -> None:
    """Print a line of a stage's log, which pytest shows if the test fails."""
    print(line)


def settings_for(airflow_home: AirflowHome, run: Run) -> Settings:
    """The settings with the run's store."""
    return airflow_home.settings.model_copy(update={"store": run.store.uri})


def copy_without(run: Run, stage: str, folder: Path) -> Run:
    """The run in a copy of its store, without the outputs of a stage and of all later ones."""
    source = Path(run.store.uri.removeprefix("file://"))
    shutil.copytree(source, folder / "store", ignore=shutil.ignore_patterns("checkpoints"))
    copy = Run(Store.open(f"file://{folder}/store"), run.path)
    for name in list(STAGES)[list(STAGES).index(stage) :]:
        shutil.rmtree(folder / "store" / location(run, name), ignore_errors=True)
        for kind in ("stages", "status"):
            copy.store.delete(f"{copy.path}/{kind}/{name}.json")
    return copy


def location(run: Run, stage: str) -> str:
    pointer = run.pointer(stage)
    assert pointer is not None, stage
    return pointer.location


def output(run: Run, stage: str) -> Artifact:
    artifact = open_artifact(run.store, location(run, stage))
    assert artifact is not None, stage
    return artifact


def assert_verified(artifact: Artifact) -> None:
    """Assert that every file matches the manifest."""
    for name in artifact.names():
        assert artifact.read(name) is not None


def has_checkpoint(store: Store) -> bool:
    return any(info.path.endswith("/manifest.json") for info in store.list("checkpoints"))


def stage_process_of(pid: int, stage: str) -> psutil.Process | None:
    """The process of a stage among the descendants of another process."""
    for process in psutil.Process(pid).children(recursive=True):
        command = command_of(process)
        if command[1:4] == ["-m", "airsmith_stages.cli", stage]:
            return process
    return None


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def kill_when(process: psutil.Process, holds: Callable[[], bool]) -> None:
    while not holds():
        if not is_alive(process):
            return
    process.kill()


def wait_for(find: Callable[[], _Found | None], driver: Any = None) -> _Found:
    """Poll until something is found.

    :param driver: the program that is expected to cause it; fails as soon as this program exits.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := find()):
        assert driver is None or driver.poll() is None, "the program has exited"
        assert time.monotonic() < deadline, f"nothing was found within {WAIT_SECONDS} s"
        time.sleep(0.02)
    return found


def query(airflow_home: AirflowHome, statement: str, *arguments: str) -> list[tuple[Any, ...]]:
    """Query Airflow's database."""
    with sqlite3.connect(airflow_home.airflow_folder / "airflow.db") as database:
        return database.execute(statement, arguments).fetchall()
