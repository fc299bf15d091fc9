"""Airsmith on one machine, in one folder: local Hub, store, Airflow with its database, and one tiny recipe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.settings import LocalSettings, Settings
from demo.hub.server import Hub
from tests.support.repository import REPOSITORY, STAGES_PYTHON

TINY_RECIPE = {
    "description": "Trains a tiny model for a few steps.",
    "model": {"id": "airsmith/tiny-llama"},
    "dataset": {"id": "airsmith/ticket-triage", "validation_split": "validation", "max_length": 192},
    "method": {"r": 4},
    "training": {
        "max_steps": 20,
        "total_train_batch_size": 8,
        "learning_rate": 1e-3,
        "save_steps": 5,
        "logging_steps": 5,
    },
    "evaluate": {"max_examples": 4, "max_new_tokens": 8},
}


@dataclass(frozen=True)
class AirflowHome:
    """A local installation of Airsmith.

    :param folder: contains Airflow's home, the DAGs, the store and the logs.
    :param hub_endpoint: address of the local Hub.
    """

    folder: Path
    hub_endpoint: str
    logs: dict[int, Path] = field(default_factory=dict)

    @property
    def airflow_folder(self) -> Path:
        """AIRFLOW_HOME, with Airflow's database."""
        return self.folder / "airflow"

    @property
    def recipe_file(self) -> Path:
        return self.folder / "dags" / "recipes" / "tiny.yaml"

    @property
    def store(self) -> Store:
        return Store.open(f"file://{self.folder}/store")

    @property
    def settings(self) -> Settings:
        local = LocalSettings(stages_python=STAGES_PYTHON, state_dir=self.folder / "state", kill_grace_seconds=20)
        return Settings(store=self.store.uri, hub_endpoint=self.hub_endpoint, local=local)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every command: Airflow's and Airsmith's, without those of the developer."""
        developers = ("AIRFLOW", "AIRSMITH", "HF_")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(developers)},
            "AIRFLOW_HOME": str(self.airflow_folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRSMITH_STORE": self.store.uri,
            "AIRSMITH_HUB_ENDPOINT": self.hub_endpoint,
            "AIRSMITH_RECIPES": str(self.recipe_file.parent),
            "AIRSMITH_LOCAL__STAGES_PYTHON": str(STAGES_PYTHON),
            "AIRSMITH_LOCAL__STATE_DIR": str(self.folder / "state"),
            "AIRSMITH_LOCAL__KILL_GRACE_SECONDS": "20",
        }

    def start(self, program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a program of this virtual environment; stdout and stderr go to the file `logs[pid]`."""
        log = self.folder / "logs" / f"{uuid.uuid4()}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / program), *arguments],
                cwd=self.folder,
                env={**self.environment, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.logs[process.pid] = log
        return process

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Wait for a program and assert that it exits with status 0.

        :returns: its output.
        """
        code = process.wait()
        log = self.logs[process.pid].read_text()
        assert code == 0, log
        return log

    def runs(self) -> list[Run]:
        """The runs in the store, oldest first."""
        specs = [info for info in self.store.list("runs") if re.fullmatch("runs/[^/]+/[^/]+/spec.json", info.path)]
        paths = [info.path.rsplit("/", 1)[0] for info in sorted(specs, key=lambda info: info.modified)]
        return [Run(self.store, path) for path in paths]


@contextmanager
def make_airflow_home(folder: Path, hub: Hub) -> Iterator[AirflowHome]:
    """An installation with the tiny recipe and its DAGs; the block's end kills the endpoints that it has deployed."""
    home = AirflowHome(folder, hub.url)
    home.recipe_file.parent.mkdir(parents=True)
    home.recipe_file.write_text(yaml.safe_dump(TINY_RECIPE))
    for dag_file in ("finetune.py", "sweep.py"):
        (folder / "dags" / dag_file).write_text((REPOSITORY / "dags" / dag_file).read_text())
    home.finish(home.start("airflow", "db", "migrate"))
    yield home
    _kill_endpoints(folder)


def _kill_endpoints(folder: Path) -> None:
    """Kill the deployed endpoints: they outlive the process that starts them."""
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if (process.info["cwd"] or "").startswith(str(folder)) and process.pid != os.getpid():
            process.send_signal(signal.SIGKILL)
