"""A training on Neuron as a pod runs it: the stage's process launches the others apart, and speaks for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from trainings import NeuronBench, artifact_of, on_cpus

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.launch import WORKER

LONG = {"max_steps": 4000, "save_steps": 2}


@pytest.fixture
def bench(tmp_path: Path) -> NeuronBench:
    return NeuronBench(Store.open(f"file://{tmp_path}/store"), tmp_path)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "AIRSMITH_SCRATCH": str(scratch)}


def start(run: Run, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen([*on_cpus.COMMAND, run.uri], env=environment, stderr=subprocess.PIPE, text=True)


def workers_of(stage: subprocess.Popen[str]) -> list[psutil.Process]:
    started = psutil.Process(stage.pid).children(recursive=True)
    return [process for process in started if process.cmdline()[-4:-2] == ["-m", WORKER]]


def last_words(stage: subprocess.Popen[str]) -> AirsmithError:
    _, log = stage.communicate(timeout=600)
    error = AirsmithError.from_json_line(log.splitlines()[-1])
    assert error is not None, log
    return error


def test_it_begins_with_the_graphs_of_the_cache(bench: NeuronBench, environment: dict[str, str]) -> None:
    run = bench.neuron_run(max_steps=2)
    stage = start(run, environment)
    _, log = stage.communicate()
    assert stage.returncode == 0, log
    assert "Beginning with 1 compiled graphs" in log
    assert artifact_of(run).type == "adapter_shards"
    assert run.statuses()["train"].state == "done"
    assert list(Path(environment["AIRSMITH_SCRATCH"]).iterdir()) == []


def test_told_to_stop_it_finishes_its_step_and_says_which(bench: NeuronBench, environment: dict[str, str]) -> None:
    run = bench.neuron_run(**LONG)
    stage = start(run, environment)
    on_cpus.wait_for(lambda: on_cpus.checkpoint_steps(bench.store), stage)
    stage.terminate()
    error = last_words(stage)
    step = on_cpus.checkpoint_steps(bench.store)[-1]
    assert error.kind is ErrorKind.INTERRUPTED
    assert f"at step {step} of 4000" in error.message
    assert run.statuses()["train"].state == "interrupted"


def test_a_process_that_is_killed_is_named_and_a_stage_that_is_killed_takes_all_with_it(
    bench: NeuronBench, environment: dict[str, str]
) -> None:
    run = bench.neuron_run(**LONG)
    stage = start(run, environment)
    on_cpus.wait_for(lambda: on_cpus.checkpoint_steps(bench.store), stage)
    (worker,) = workers_of(stage)
    worker.send_signal(signal.SIGKILL)
    error = last_words(stage)
    assert error.kind is ErrorKind.KILLED
    assert "Process 0 of the training was killed" in error.message

    stage = start(run, environment)
    on_cpus.wait_for(lambda: workers_of(stage), stage)
    started = psutil.Process(stage.pid).children(recursive=True)
    stage.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []
