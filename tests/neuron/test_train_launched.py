"""A training on Neuron as a pod runs it: the stage's process launches the workers and reports their errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.launch import WORKER
from tests.support.neuron_training_runs import NeuronTrainingRuns, trained_artifact
from tests.support.processes import wait_for
from tests.support.training_runs import TRAIN_COMMAND, checkpoint_steps

LONG = {"max_steps": 4000, "save_steps": 2}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "AIRSMITH_SCRATCH": str(scratch)}


def start(run: Run, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen([*TRAIN_COMMAND, run.uri], env=environment, stderr=subprocess.PIPE, text=True)


def workers_of(stage: subprocess.Popen[str]) -> list[psutil.Process]:
    started = psutil.Process(stage.pid).children(recursive=True)
    return [process for process in started if process.cmdline()[-4:-2] == ["-m", WORKER]]


def error_of(stage: subprocess.Popen[str]) -> AirsmithError:
    _, log = stage.communicate(timeout=600)
    error = AirsmithError.from_json_line(log.splitlines()[-1])
    assert error is not None, log
    return error


def test_training_starts_with_the_graphs_of_the_cache(
    trainings: NeuronTrainingRuns, environment: dict[str, str]
) -> None:
    run = trainings.neuron_run(max_steps=2)
    stage = start(run, environment)
    _, log = stage.communicate()
    assert stage.returncode == 0, log
    assert "Starting with 1 compiled graphs" in log
    assert trained_artifact(run).type == "adapter_shards"
    assert run.statuses()["train"].state == "done"
    assert list(Path(environment["AIRSMITH_SCRATCH"]).iterdir()) == []


def test_sigterm_stops_after_the_step_and_the_error_names_it(
    trainings: NeuronTrainingRuns, environment: dict[str, str]
) -> None:
    run = trainings.neuron_run(**LONG)
    stage = start(run, environment)
    wait_for(lambda: checkpoint_steps(trainings.store), stage)
    stage.terminate()
    error = error_of(stage)
    step = checkpoint_steps(trainings.store)[-1]
    assert error.kind is ErrorKind.INTERRUPTED
    assert f"at step {step} of 4000" in error.message
    assert run.statuses()["train"].state == "interrupted"


def test_a_killed_worker_is_named_and_workers_exit_with_a_killed_stage(
    trainings: NeuronTrainingRuns, environment: dict[str, str]
) -> None:
    run = trainings.neuron_run(**LONG)
    stage = start(run, environment)
    wait_for(lambda: checkpoint_steps(trainings.store), stage)
    (worker,) = workers_of(stage)
    worker.send_signal(signal.SIGKILL)
    error = error_of(stage)
    assert error.kind is ErrorKind.KILLED
    assert "Process 0 of the training was killed" in error.message

    stage = start(run, environment)
    wait_for(lambda: workers_of(stage), stage)
    started = psutil.Process(stage.pid).children(recursive=True)
    stage.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []
