"""A training on Neuron that was stopped at any moment goes on: step, rate, rows and metrics; the moments begin anew.

A restarted training ends near one that was not, and not where that one ends: without moments its first steps are of
full size, wherever the gradient points. `BOUND` says how near, as a share of what is learnt here, by the mean of the
last five losses.
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
from trainings import NeuronBench, artifact_of, free_port, history_of, losses_of, on_cpus, train_in_child

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.spec import ParallelPlan

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STEPS = {
    "method": {"name": "lora", "r": 8, "lora_alpha": 32, "target_modules": SEVEN},
    "max_steps": 40,
    "save_steps": 8,
    "learning_rate": 0.003,
    "warmup_ratio": 0.1,
}
BOUND = 0.05

Train = Callable[..., tuple[int, str]]


@pytest.fixture
def bench(tmp_path: Path) -> NeuronBench:
    return NeuronBench(Store.open(f"file://{tmp_path}/store"), tmp_path)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train in processes of their own, as torchrun starts them; returns the first one's exit code, and its output."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", "trainings", "airsmith_stages.neuron.training"])

    def run_to_end(run: Run, signal_at: tuple[int, int] | None = None, processes: int = 1) -> tuple[int, str]:
        port, logs = free_port(), [tmp_path / f"train-{rank}.log" for rank in range(processes)]
        children = []
        for rank, log in enumerate(logs):
            log.write_text("")
            args = (run.uri, log, signal_at, rank, processes, port)
            children.append(context.Process(target=train_in_child, args=args))
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert children[0].exitcode is not None
        return children[0].exitcode, logs[0].read_text()

    return run_to_end


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The history where nothing happens."""
    from trainings import train_here

    folder = tmp_path_factory.mktemp("uninterrupted")
    run = NeuronBench(Store.open(f"file://{folder}/store"), folder).neuron_run(**STEPS)
    train_here(run)
    return history_of(run)


def checkpoint_steps(store: Store) -> list[int]:
    return list(on_cpus.checkpoint_steps(store))


def is_near(losses: list[float], uninterrupted: list[float]) -> bool:
    end, other = sum(losses[-5:]) / 5, sum(uninterrupted[-5:]) / 5
    return abs(end - other) < BOUND * (uninterrupted[0] - other)


def columns(history: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in history]


def test_killed_it_goes_on_and_ends_near_the_uninterrupted_loss(
    bench: NeuronBench, train: Train, uninterrupted: list[dict[str, Any]]
) -> None:
    run = bench.neuron_run(**STEPS)
    # Two micro-batches make a step: in the 20th, when the checkpoint of step 8 is published, and that of 16 may be.
    assert train(run, (39, signal.SIGKILL))[0] == -signal.SIGKILL
    step = checkpoint_steps(bench.store)[-1]
    assert train(run, (3, signal.SIGKILL))[0] == -signal.SIGKILL
    code, log = train(run)
    assert code == 0, log
    assert f"Going on from the checkpoint of step {step}. It is a warm restart" in log
    history, metrics = history_of(run), artifact_of(run).manifest.metrics
    shown = ("step", "learning_rate", "epoch")
    assert columns(history, *shown) == columns(uninterrupted, *shown)
    before, losses = [row["loss"] for row in uninterrupted], losses_of(run)
    assert losses[: step + 1] == before[: step + 1]  # The next step's loss is of the checkpoint's weights.
    assert losses[step + 1 :] != before[step + 1 :]
    assert is_near(losses, before)
    assert (metrics["warm_restarts"], metrics["steps"]) == (1, 40)
    assert artifact_of(run).manifest.properties["resume"] == "warm_restart"


def test_killed_before_the_first_checkpoint_it_begins_anew(bench: NeuronBench, train: Train) -> None:
    run = bench.neuron_run(**{**STEPS, "max_steps": 10})
    assert train(run, (9, signal.SIGKILL))[0] == -signal.SIGKILL
    assert train(run)[0] == 0
    assert artifact_of(run).manifest.metrics["warm_restarts"] == 0


def test_told_to_stop_it_publishes_one_checkpoint_and_goes_on_from_there(
    bench: NeuronBench, train: Train, uninterrupted: list[dict[str, Any]]
) -> None:
    run = bench.neuron_run(**STEPS)
    code, log = train(run, (9, signal.SIGTERM))
    assert code == 1
    assert '{"error": "interrupted"' in log.splitlines()[-1]
    assert "at step 5 of 40" in log.splitlines()[-1]
    assert checkpoint_steps(bench.store) == [5]
    code, log = train(run)
    assert code == 0, log
    assert "Going on from the checkpoint of step 5" in log
    before = [row["loss"] for row in uninterrupted]
    assert losses_of(run)[:6] == before[:6]
    assert is_near(losses_of(run), before)


def test_a_training_that_was_over_trains_no_step_again(bench: NeuronBench, train: Train) -> None:
    run = bench.neuron_run(**{**STEPS, "max_steps": 8})
    assert train(run)[0] == 0
    from airsmith.artifacts.layout import MANIFEST

    trained = losses_of(run)
    bench.store.delete(f"{artifact_of(run).folder}/{MANIFEST}")
    code, log = train(run, (1, signal.SIGKILL))
    assert code == 0, log
    assert losses_of(run) == trained
    assert artifact_of(run).manifest.metrics["warm_restarts"] == 0


def test_two_processes_train_what_one_does(bench: NeuronBench, train: Train) -> None:
    one = bench.neuron_run(max_per_device_train_batch_size=4)
    two = bench.neuron_run(parallel=ParallelPlan(processes_per_node=2))
    assert train(one)[0] == 0
    code, log = train(two, processes=2)
    assert code == 0, log
    assert losses_of(two) == pytest.approx(losses_of(one), abs=1e-4)
    assert artifact_of(two).manifest.properties["shards"] == "1"


def test_two_processes_that_are_killed_go_on(bench: NeuronBench, train: Train) -> None:
    run = bench.neuron_run(parallel=ParallelPlan(processes_per_node=2), save_steps=2)
    assert train(run, (6, signal.SIGKILL), processes=2)[0] == -signal.SIGKILL
    assert 2 in checkpoint_steps(bench.store)
    code, log = train(run, processes=2)
    assert code == 0, log
    assert artifact_of(run).manifest.metrics["warm_restarts"] == 1
