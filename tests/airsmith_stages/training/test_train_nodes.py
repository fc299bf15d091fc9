"""Training on several nodes: each runs a launcher, which finds the first node by torchrun's variables."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.stage_runner import run_stage
from tests.support.processes import DEADLINE_SECONDS, wait_for
from tests.support.stage_runs import output_of
from tests.support.training_runs import TRAIN_COMMAND, TrainingRuns, checkpoint_steps, counting_rows, history_of

TRAINING = {
    "max_steps": 11,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 1,
    "logging_steps": 1,
    "eval_steps": 3,
    "save_steps": 4,
}
LONG = {**TRAINING, "max_steps": 45, "save_steps": 5, "eval_steps": 20}


@pytest.fixture
def new_trainings(tmp_path: Path) -> Callable[[], TrainingRuns]:
    """Creates `TrainingRuns`, each with its own store."""
    made: list[Path] = []

    def make() -> TrainingRuns:
        made.append(tmp_path / str(len(made)))
        made[-1].mkdir()
        return TrainingRuns(made[-1])

    return make


def run_on(trainings: TrainingRuns, nodes: int, **training: object) -> Run:
    tokens = trainings.tokens("rows", counting_rows(17), validation=counting_rows(5))
    return trainings.new_run(tokens=tokens, recipe={"backend": {"nodes": nodes}}, **{**TRAINING, **training})


def start(run: Run, nodes: int = 2) -> list[subprocess.Popen[str]]:
    """Start the launchers, in the order of the nodes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        rendezvous = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free.getsockname()[1])}
    return [
        subprocess.Popen(
            [*TRAIN_COMMAND, run.uri],
            env={**os.environ, **rendezvous, "PET_NODE_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(nodes)
    ]


def errors_of(launchers: list[subprocess.Popen[str]]) -> list[AirsmithError | None]:
    """Wait for the launchers and return the errors in their last lines."""
    logs = [launcher.communicate(timeout=DEADLINE_SECONDS)[1] for launcher in launchers]
    return [AirsmithError.from_json_line(log.splitlines()[-1]) for log in logs]


def test_two_nodes_have_the_losses_of_one_and_only_the_first_publishes(
    new_trainings: Callable[[], TrainingRuns],
) -> None:
    alone, together = run_on(new_trainings(), 1), run_on(new_trainings(), 2)
    run_stage("train", alone)
    launchers = start(together)
    logs = [launcher.communicate(timeout=DEADLINE_SECONDS)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], logs
    for one, two in zip(history_of(alone), history_of(together), strict=True):
        for name in one:
            assert two[name] == pytest.approx(one[name], abs=1e-5), (name, one["step"])
    assert "Published the checkpoint of step 11" in logs[0]
    assert "Published" not in logs[1]
    assert together.statuses()["train"].state == "done"


def test_a_lost_node_is_reported_and_the_next_attempt_equals_uninterrupted(
    new_trainings: Callable[[], TrainingRuns],
) -> None:
    trainings = new_trainings()
    run = run_on(trainings, 2, **LONG)
    launchers = start(run)
    wait_for(lambda: len(checkpoint_steps(trainings.store)) > 0, launchers[0])
    launchers[1].send_signal(signal.SIGKILL)
    launchers[1].communicate()
    (error,) = errors_of(launchers[:1])
    assert error is not None
    assert error.kind is ErrorKind.KILLED
    assert "connection to another process of the training was lost" in error.message
    assert run.statuses()["train"].error == error.message
    assert errors_of(start(run)) == [None, None]

    other = run_on(new_trainings(), 2, **LONG)
    assert errors_of(start(other)) == [None, None]
    assert history_of(run) == history_of(other)
    assert output_of(run, "train").read("adapter_model.safetensors") == output_of(other, "train").read(
        "adapter_model.safetensors"
    )


def test_sigterm_on_all_nodes_publishes_one_checkpoint(new_trainings: Callable[[], TrainingRuns]) -> None:
    trainings = new_trainings()
    run = run_on(trainings, 2, **LONG)
    launchers = start(run)
    wait_for(lambda: len(checkpoint_steps(trainings.store)) > 0, launchers[0])
    for launcher in launchers:
        launcher.terminate()
    errors = errors_of(launchers)
    step = checkpoint_steps(trainings.store)[-1]
    for error in errors:
        assert error is not None
        assert error.kind is ErrorKind.INTERRUPTED
    assert f"at step {step} of 45" in errors[0].message  # type: ignore[union-attr]
