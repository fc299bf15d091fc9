"""A stopped training on Neuron resumes its step, learning rate, rows and metrics, but not the optimizer's moments.

The final loss of a restarted training is close to that of an uninterrupted one, but not equal: without moments, its
first steps have full size in any direction. `MAX_LOSS_DIFFERENCE` is the limit for the mean of the last five losses, as
a share of the loss's total decrease.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airsmith.contracts.run import Run
from airsmith.contracts.spec import ParallelPlan
from tests.support.neuron_training_runs import (
    NeuronTrainingRuns,
    free_port,
    history_of,
    losses_of,
    train_as_worker,
    train_in_process,
    trained_artifact,
)
from tests.support.training_runs import checkpoint_steps

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STEPS = {
    "method": {"name": "lora", "r": 8, "lora_alpha": 32, "target_modules": ALL_PROJECTIONS},
    "max_steps": 40,
    "save_steps": 8,
    "learning_rate": 0.003,
    "warmup_ratio": 0.1,
}
MAX_LOSS_DIFFERENCE = 0.05

Train = Callable[..., tuple[int, str]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Returns a function that trains in worker processes and returns exit code and log of rank 0."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.neuron_training_runs", "airsmith_stages.neuron.training"])

    def run_to_end(run: Run, signal_at: tuple[int, int] | None = None, processes: int = 1) -> tuple[int, str]:
        port, logs = free_port(), [tmp_path / f"train-{rank}.log" for rank in range(processes)]
        children = []
        for rank, log in enumerate(logs):
            log.write_text("")
            args = (run.uri, log, signal_at, rank, processes, port)
            children.append(context.Process(target=train_as_worker, args=args))
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert children[0].exitcode is not None
        return children[0].exitcode, logs[0].read_text()

    return run_to_end


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The history of a training without interruptions."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run = NeuronTrainingRuns(folder).neuron_run(**STEPS)
    train_in_process(run)
    return history_of(run)


def is_close(losses: list[float], uninterrupted: list[float]) -> bool:
    end, other = sum(losses[-5:]) / 5, sum(uninterrupted[-5:]) / 5
    return abs(end - other) < MAX_LOSS_DIFFERENCE * (uninterrupted[0] - other)


def columns(history: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in history]


def test_a_killed_training_resumes_and_reaches_a_close_loss(
    trainings: NeuronTrainingRuns, train: Train, uninterrupted: list[dict[str, Any]]
) -> None:
    run = trainings.neuron_run(**STEPS)
    # A step has two micro-batches: this is step 20, when the checkpoint of step 8 is published and that of 16 may be.
    assert train(run, (39, signal.SIGKILL))[0] == -signal.SIGKILL
    step = checkpoint_steps(trainings.store)[-1]
    assert train(run, (3, signal.SIGKILL))[0] == -signal.SIGKILL
    code, log = train(run)
    assert code == 0, log
    assert f"Resuming from the checkpoint of step {step}. This is a warm restart" in log
    history, metrics = history_of(run), trained_artifact(run).manifest.metrics
    shown = ("step", "learning_rate", "epoch")
    assert columns(history, *shown) == columns(uninterrupted, *shown)
    before, losses = [row["loss"] for row in uninterrupted], losses_of(run)
    assert losses[: step + 1] == before[: step + 1]  # The next step's loss is computed with the checkpoint's weights.
    assert losses[step + 1 :] != before[step + 1 :]
    assert is_close(losses, before)
    assert (metrics["warm_restarts"], metrics["steps"]) == (1, 40)
    assert trained_artifact(run).manifest.properties["resume"] == "warm_restart"


def test_a_training_killed_before_its_first_checkpoint_starts_over(trainings: NeuronTrainingRuns, train: Train) -> None:
    run = trainings.neuron_run(**{**STEPS, "max_steps": 10})
    assert train(run, (9, signal.SIGKILL))[0] == -signal.SIGKILL
    assert train(run)[0] == 0
    assert trained_artifact(run).manifest.metrics["warm_restarts"] == 0


def test_sigterm_publishes_one_checkpoint_and_training_resumes_from_it(
    trainings: NeuronTrainingRuns, train: Train, uninterrupted: list[dict[str, Any]]
) -> None:
    run = trainings.neuron_run(**STEPS)
    code, log = train(run, (9, signal.SIGTERM))
    assert code == 1
    assert '{"error": "interrupted"' in log.splitlines()[-1]
    assert "at step 5 of 40" in log.splitlines()[-1]
    assert checkpoint_steps(trainings.store) == [5]
    code, log = train(run)
    assert code == 0, log
    assert "Resuming from the checkpoint of step 5" in log
    before = [row["loss"] for row in uninterrupted]
    assert losses_of(run)[:6] == before[:6]
    assert is_close(losses_of(run), before)


def test_a_finished_training_repeats_no_step(trainings: NeuronTrainingRuns, train: Train) -> None:
    run = trainings.neuron_run(**{**STEPS, "max_steps": 8})
    assert train(run)[0] == 0
    from airsmith.artifacts.layout import MANIFEST

    trained = losses_of(run)
    trainings.store.delete(f"{trained_artifact(run).folder}/{MANIFEST}")
    code, log = train(run, (1, signal.SIGKILL))
    assert code == 0, log
    assert losses_of(run) == trained
    assert trained_artifact(run).manifest.metrics["warm_restarts"] == 0


def test_two_processes_reach_the_losses_of_one(trainings: NeuronTrainingRuns, train: Train) -> None:
    one = trainings.neuron_run(max_per_device_train_batch_size=4)
    two = trainings.neuron_run(parallel=ParallelPlan(processes_per_node=2))
    assert train(one)[0] == 0
    code, log = train(two, processes=2)
    assert code == 0, log
    assert losses_of(two) == pytest.approx(losses_of(one), abs=1e-4)
    assert trained_artifact(two).manifest.properties["shards"] == "1"


def test_two_killed_processes_resume(trainings: NeuronTrainingRuns, train: Train) -> None:
    run = trainings.neuron_run(parallel=ParallelPlan(processes_per_node=2), save_steps=2)
    assert train(run, (6, signal.SIGKILL), processes=2)[0] == -signal.SIGKILL
    assert 2 in checkpoint_steps(trainings.store)
    code, log = train(run, processes=2)
    assert code == 0, log
    assert trained_artifact(run).manifest.metrics["warm_restarts"] == 1
