"""The cost of many deferred trainings: `make benchmark-deferred SETTINGS=…`.

On fake nodes (KWOK; label `type=fake`, taint `kwok.x-k8s.io/node=fake`) a pod runs no process, and terminates when this
program patches its status; this program publishes each training's adapter. Everything else is real: API server,
scheduler, Airflow with its triggerer, and the store. For each round it reports the triggerer's memory and CPU while all
trainings are deferred, Airflow's requests to the API server, and the time from a pod's termination to its task's end.

SQLite does not support this load: BENCHMARK_DATABASE must name an empty PostgreSQL database (`postgresql+psycopg2://…`;
the drivers are locked in `containers/airflow/postgres.lock`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from airsmith.artifacts.layout import run_folder
from airsmith.artifacts.publish import ArtifactWriter
from airsmith.contracts.cache import Output, look_up_output
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES
from benchmarks.airflow_tasks import timestamp
from benchmarks.api_requests import RequestCounter, counted_requests
from benchmarks.fake_pods import fake_pods
from demo.airflow_api import wait_until
from tests.cluster.airflow_server import AirflowServer, airflow_server
from tests.cluster.installation import Cluster, Installation, install_airsmith, new_namespace

DAG_ID = "many"
TIMEOUT_SECONDS = 1800
OBSERVATION_SECONDS = 60
SEQUENTIAL_ENDS = 30
SECONDS_BETWEEN_ENDS = 4
"""Longer than a worker takes to resume a task on two cores, so that no task waits for a worker."""

RECIPE: dict[str, Any] = {
    "model": {"id": "airsmith/tiny-llama"},
    "dataset": {"id": "airsmith/ticket-triage", "validation_split": "validation", "max_length": 192},
    "training": {"max_steps": 10, "total_train_batch_size": 8},
    "serve": {"enabled": False},
}
DAG_FILE = """
from pathlib import Path

from airflow.sdk import DAG

from airsmith.pipeline.plan import make_plan
from airsmith.recipe.load import load_recipe
from airsmith.airflow.kubernetes_runtime import stage_task
from airsmith.settings import load_settings

recipe = load_recipe(Path(__file__).parent / "recipes" / "many.yaml")
stage = next(stage for stage in make_plan(recipe).stages if stage.stage == "train")
with DAG("many", schedule=None, max_active_runs=1000, max_active_tasks=1000, is_paused_upon_creation=False):
    stage_task(stage, recipe, load_settings(), task_id="train", run_uri="{{ dag_run.conf['run'] }}")
"""
AIRFLOW = {
    "AIRFLOW__SCHEDULER__MAX_DAGRUNS_TO_CREATE_PER_LOOP": "100",
    "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": "200",
}


@dataclass(frozen=True)
class Round:
    """Measurements with one number of trainings.

    :ivar ends: seconds from a pod's termination to its task's end, for pods that terminated one by one.
    :ivar last_end: seconds until the last task ended, after all other pods terminated at once.
    """

    trainings: int
    triggerer_mib: float
    triggerer_cpu_percent: float
    requests_per_minute: float
    ends: list[float]
    last_end: float


def main() -> int:
    """Run all rounds on one AirflowServer, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainings", nargs="*", type=int, default=[50, 200])
    numbers = parser.parse_args().trainings
    images = Path(os.environ["AIRSMITH_TEST_SETTINGS"])
    with (
        new_namespace() as cluster,
        tempfile.TemporaryDirectory() as folder,
        install_airsmith(cluster, Path(folder), images) as installation,
        counted_requests(cluster.namespace) as requests,
    ):
        spec = _prepare(installation)
        installation.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = os.environ["BENCHMARK_DATABASE"]
        installation.finish(installation.start("db", "migrate"))
        with airflow_server(installation, **AIRFLOW) as airflow:
            airflow.api.wait_for_dag(DAG_ID, 120)
            rounds = []
            for number in numbers:
                rounds.append(_round(airflow, cluster, spec, requests, number))
                _print(rounds)
    return 0


def _round(airflow: AirflowServer, cluster: Cluster, spec: RunSpec, requests: RequestCounter, number: int) -> Round:
    """Start the trainings, observe the triggerer while all are deferred, and terminate their pods."""
    with fake_pods(cluster) as pods:
        runs = dict(_start_run(airflow, spec, number, index) for index in range(number))
        _wait_for(airflow, runs, {"deferred"})
        assert wait_until(lambda: len(pods.running) == number, TIMEOUT_SECONDS)
        memory, cpu, request_rate = _observe_triggerer(airflow, requests)
        for run in runs.values():
            _publish(run)
        tasks_by_pod = {_pod_name(airflow, run_id): run_id for run_id in runs}
        sequential = sorted(pods.running)[:SEQUENTIAL_ENDS]
        for name in sequential:
            pods.end(name)
            time.sleep(SECONDS_BETWEEN_ENDS)
        for name in sorted(pods.running - pods.ended_at.keys()):
            pods.end(name)
        burst_started_at = time.time()
        _wait_for(airflow, runs, {"success"})
    ended_at = {name: timestamp(_task(airflow, run_id)["end_date"]) for name, run_id in tasks_by_pod.items()}
    ends = [ended_at[name] - pods.ended_at[name] for name in sequential]
    return Round(number, memory, cpu, request_rate, ends, max(ended_at.values()) - burst_started_at)


def _prepare(installation: Installation) -> RunSpec:
    """Replace the recipes' DAGs, schedule pods to fake nodes, and resolve one run as the template of all others."""
    from airsmith.pipeline.resolve import RunRequest, resolve
    from airsmith.settings import load_settings

    file = installation.folder / "airsmith.yaml"
    settings = yaml.safe_load(file.read_text())
    toleration = {"key": "kwok.x-k8s.io/node", "operator": "Equal", "value": "fake", "effect": "NoSchedule"}
    settings["backends"]["cpu"] |= {"node_selector": {"type": "fake"}, "tolerations": [toleration]}
    file.write_text(yaml.safe_dump(settings))
    installation.write_recipe(DAG_ID, RECIPE)
    (installation.folder / "dags" / "finetune.py").unlink()
    (installation.folder / "dags" / "many.py").write_text(DAG_FILE)
    os.environ["AIRSMITH_SETTINGS"] = str(file)
    request = RunRequest(DAG_ID, "template", installation.folder / "dags" / "recipes" / "many.yaml")
    return resolve(request, load_settings()).read_spec()


def _start_run(airflow: AirflowServer, template: RunSpec, number: int, index: int) -> tuple[str, Run]:
    """Trigger a run whose inputs exist.

    :returns: its id in AirflowServer, and its folder.
    """
    name = f"{number}-{index}"
    training = template.recipe.training.model_copy(update={"seed": 1000 * number + index})
    recipe = template.recipe.model_copy(update={"training": training})
    run = Run(airflow.installation.store, run_folder(DAG_ID, name))
    run.write_spec(template.model_copy(update={"run_id": name, "recipe": recipe}))
    for source in STAGES["train"].inputs:
        output = Output("fake", f"{source.stage}-digest", f"artifacts/{source.stage}", True, {source.property: "1"})
        run.write_pointer(output.pointer(source.stage))
    body = {"logical_date": None, "dag_run_id": name, "conf": {"run": run.uri}}
    airflow.api.request("POST", f"dags/{DAG_ID}/dagRuns", json=body)
    return name, run


def _publish(run: Run) -> None:
    """Publish the output of a training: an artifact, and a pointer to it."""
    record = StageRecord.start("train", run)
    output = look_up_output(run, run.read_spec(), "train")
    writer = ArtifactWriter(run.store, output.location, output.type, output.digest, inputs={}, versions={})
    writer.add_bytes("adapter_config.json", b"{}")
    record.finish(Output.of_artifact(writer.publish()), cached=False)


def _observe_triggerer(airflow: AirflowServer, requests: RequestCounter) -> tuple[float, float, float]:
    """Measure the triggerer's resources and Airflow's requests to the API server.

    :returns: MiB, percent of one core, requests per minute.
    """
    processes = airflow.processes("airflow", "triggerer")
    cpu_before, requests_before, start = _cpu_seconds(processes), requests.total(), time.monotonic()
    time.sleep(OBSERVATION_SECONDS)
    elapsed = time.monotonic() - start
    memory = sum(process.memory_full_info().uss for process in processes) / 2**20
    cpu_percent = 100 * (_cpu_seconds(processes) - cpu_before) / elapsed
    return memory, cpu_percent, 60 * (requests.total() - requests_before) / elapsed


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _wait_for(airflow: AirflowServer, runs: dict[str, Run], states: set[str]) -> None:
    """Wait until every task is in one of the states."""

    def read_states() -> list[str]:
        path = f"dags/{DAG_ID}/dagRuns/~/taskInstances"
        found = []
        for offset in range(0, 2000, 100):
            tasks = airflow.api.request("GET", path, params={"limit": 100, "offset": offset})["task_instances"]
            found += [str(task["state"]) for task in tasks if task["dag_run_id"] in runs]
            if len(tasks) < 100:
                return found
        return found

    def all_in_states() -> bool:
        found = read_states()
        assert "failed" not in found, "a training failed"
        return len(found) == len(runs) and set(found) <= states

    assert wait_until(all_in_states, TIMEOUT_SECONDS, 2), read_states()


def _task(airflow: AirflowServer, run_id: str) -> dict[str, Any]:
    return airflow.task(DAG_ID, run_id, "train")


def _pod_name(airflow: AirflowServer, run_id: str) -> str:
    path = f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/train/xcomEntries/pod_name"
    return str(airflow.api.request("GET", path)["value"])


def _print(rounds: list[Round]) -> None:
    table = Table(box=None)
    headings = (
        "trainings",
        "triggerer MiB",
        "CPU %",
        "requests/min",
        "per task",
        "pod's end → task's end",
        "last end of burst",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for measured in rounds:
        ends = f"{statistics.median(measured.ends):.1f} s, at most {max(measured.ends):.1f} s"
        requests = (f"{measured.requests_per_minute:.0f}", f"{measured.requests_per_minute / measured.trainings:.1f}")
        table.add_row(
            str(measured.trainings),
            f"{measured.triggerer_mib:.0f}",
            f"{measured.triggerer_cpu_percent:.0f}",
            *requests,
            ends,
            f"{measured.last_end:.0f} s",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
