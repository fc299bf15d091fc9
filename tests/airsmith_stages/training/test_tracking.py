"""The history in TensorBoard's event file and in MLflow; a failure to log it does not stop the training."""

from __future__ import annotations

import signal
import struct
import subprocess
from pathlib import Path

import pytest

from airsmith.contracts.run import Run
from airsmith_stages.stage_runner import run_stage
from airsmith_stages.training.tracking import EVENTS_FILE, RUN_TAG
from tests.support.processes import wait_for
from tests.support.training_process import TrainCommand
from tests.support.training_runs import (
    SHORT_TRAINING,
    STAGGERED_TRAINING,
    TRAIN_COMMAND,
    TrainingRuns,
    checkpoint_steps,
    counting_rows,
    history_of,
)


def events(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Read the scalars of a run's event file, by tag. A TFRecord is a length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content, found = run.read(EVENTS_FILE), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        content = content[16 + length :]
    return found


def test_tensorboard_has_every_row_of_a_killed_and_resumed_training(
    trainings: TrainingRuns, train: TrainCommand
) -> None:
    run = trainings.staggered_run()
    assert train(run, ("training_step", 30, signal.SIGKILL))[0] < 0
    run_stage("train", run)
    scalars, history = events(run), history_of(run)
    for name in ("loss", "eval_loss", "learning_rate", "grad_norm"):
        rows = [(row["step"], pytest.approx(row[name])) for row in history if name in row]
        assert scalars[f"train/{name}"] == rows
    assert len(scalars["train/tokens_per_second"]) == len(scalars["train/peak_memory_bytes"]) > 0
    assert all(value > 0 for _, value in scalars["train/tflops_per_second"])


def test_mlflow_has_one_run_of_several_attempts(
    trainings: TrainingRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    training = {
        **STAGGERED_TRAINING,
        "max_steps": 60,
        "save_steps": 6,
        "eval_steps": 6,
        "early_stopping_patience": None,
    }
    run = trainings.new_run(tokens=trainings.tokens("rows", counting_rows(18)), **training)
    first_attempt = subprocess.Popen([*TRAIN_COMMAND, run.uri], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(checkpoint_steps(trainings.store)) > 0, first_attempt)
    first_attempt.terminate()
    _, log = first_attempt.communicate()
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None, log
    (first,) = client.search_runs([experiment.experiment_id])
    assert first.info.status == "KILLED"
    assert first.data.metrics["loss"] > 0
    subprocess.run([*TRAIN_COMMAND, run.uri], check=True)
    (second,) = client.search_runs([experiment.experiment_id])
    assert second.info.run_id == first.info.run_id
    assert second.info.status == "FINISHED"
    assert second.data.tags[RUN_TAG] == run.uri
    assert second.data.params["method.r"] == "4"
    logged = [(each.step, each.value) for each in client.get_metric_history(second.info.run_id, "loss")]
    assert sorted(logged) == [(row["step"], row["loss"]) for row in history_of(run) if "loss" in row]


def test_an_unreachable_server_does_not_stop_the_training(
    trainings: TrainingRuns,
    rows: list[list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), **{**SHORT_TRAINING, "eval_steps": None})
    assert run_stage("train", run).metrics["steps"] == 12
    assert "MLflow does not accept the training's metrics" in caplog.text
