"""A training that is stopped at any moment and resumed has the weights and history of an uninterrupted one."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.stage_runner import run_stage
from tests.support.processes import wait_for
from tests.support.training_process import TrainCommand
from tests.support.training_runs import (
    STAGGERED_TRAINING,
    TRAIN_COMMAND,
    TrainingRuns,
    checkpoint_steps,
    counting_rows,
    history_of,
    nan_weight_at,
    trained_tensors,
    without_clock_columns,
)


def test_the_same_training_in_two_processes_gives_the_same_bits(
    trainings: TrainingRuns, train: TrainCommand, uninterrupted: Any
) -> None:
    run = trainings.staggered_run()
    assert train(run)[0] == 0
    assert (trained_tensors(run), history_of(run)) == uninterrupted


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([("training_step", 1)], id="first step"),
        pytest.param([("training_step", 31), ("training_step", 5)], id="two steps"),
        pytest.param([("upload", 9)], id="in the second checkpoint"),
        pytest.param([("create", 2), ("create", 1)], id="before a manifest"),
        pytest.param([("delete", 2), ("upload", 3)], id="while pruning"),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    trainings: TrainingRuns, train: TrainCommand, uninterrupted: Any, kills: list[tuple[str, int]]
) -> None:
    run = trainings.staggered_run()
    for function, call in kills:
        assert train(run, (function, call, signal.SIGKILL))[0] == -signal.SIGKILL
        assert run.pointer("train") is None
    run_stage("train", run)
    assert (trained_tensors(run), history_of(run)) == uninterrupted


def test_a_kill_before_publishing_repeats_no_step(
    trainings: TrainingRuns, train: TrainCommand, uninterrupted: Any
) -> None:
    run = trainings.staggered_run()
    manifests = 7  # six checkpoints, then the adapter
    assert train(run, ("create", manifests, signal.SIGKILL))[0] == -signal.SIGKILL
    assert checkpoint_steps(trainings.store)[-1] == STAGGERED_TRAINING["max_steps"]
    code, log = train(run, ("training_step", 1, signal.SIGKILL))
    assert code == 0, log
    assert (trained_tensors(run), history_of(run)) == uninterrupted


@pytest.mark.parametrize(
    ("function", "call", "step"),
    [
        ("training_step", 19, 11),
        # The only batch of step 10, which a validation follows.
        ("training_step", 18, 10),
        # Four steps read 16 rows, a validation 5: this row belongs to the second validation, at step 4.
        ("__getitem__", 16 + 5 + 3, 4),
    ],
    ids=["in a step", "before a validation", "in a validation"],
)
def test_sigterm_publishes_a_checkpoint_from_which_training_resumes(
    trainings: TrainingRuns,
    train: TrainCommand,
    uninterrupted: Any,
    function: str,
    call: int,
    step: int,
) -> None:
    run = trainings.staggered_run()
    code, log = train(run, (function, call, signal.SIGTERM))
    assert code == 1
    error = AirsmithError.from_json_line(log.splitlines()[-1])
    assert error is not None
    assert error.kind is ErrorKind.INTERRUPTED
    assert f"step {step} of 23" in error.message
    assert "resumes from the checkpoint" in error.hint
    assert checkpoint_steps(trainings.store)[-1] == step
    assert run.statuses()["train"].state == "interrupted"
    code, log = train(run)
    assert code == 0
    assert f"checkpoint of step {step}" in log
    assert (trained_tensors(run), history_of(run)) == uninterrupted


def test_sigterm_during_loading_stops_the_training_at_once(trainings: TrainingRuns, train: TrainCommand) -> None:
    run = trainings.staggered_run()
    code, log = train(run, ("stream", 1, signal.SIGTERM))
    assert code == 1
    error = AirsmithError.from_json_line(log.splitlines()[-1])
    assert error is not None
    assert error.kind is ErrorKind.INTERRUPTED
    assert not list(trainings.store.list("checkpoints"))


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "file removed", "manifest removed", "manifest cut"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    trainings: TrainingRuns, uninterrupted: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainings.staggered_run()
    with pytest.raises(AirsmithError), nan_weight_at(call=25):
        run_stage("train", run)
    assert checkpoint_steps(trainings.store) == [8, 12]
    (folder,) = {info.path.split("/12/")[0] for info in trainings.store.list("checkpoints") if "/12/" in info.path}
    manifest = f"{folder}/12/manifest.json"
    (weights,) = (i.path for i in trainings.store.list(f"{folder}/12") if i.path.endswith("trainable.safetensors"))
    target = manifest if "manifest" in damage else weights
    content = trainings.store.read(target)
    if "removed" in damage:
        trainings.store.delete(target)
    elif damage == "flipped byte":
        trainings.store.write(target, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        trainings.store.write(target, content[: len(content) // 2])
    caplog.set_level("INFO", "airsmith")
    run_stage("train", run)
    assert "Resuming from the checkpoint of step 8" in caplog.text
    assert ("Skipping checkpoint 12" in caplog.text) == (damage != "manifest removed")
    assert (trained_tensors(run), history_of(run)) == uninterrupted


def test_paused_and_resumed_equals_uninterrupted(trainings: TrainingRuns, uninterrupted: Any) -> None:
    run = trainings.staggered_run()
    spec = run.read_spec()
    for stop in (6, 14):
        run.write_spec(spec.model_copy(update={"stop_at_step": stop}))
        pointer = run_stage("train", run)
        assert pointer.metrics["steps"] == stop
        assert max(row["step"] for row in history_of(run) if "eval_loss" in row) == stop
    run.write_spec(spec)
    run_stage("train", run)
    assert (trained_tensors(run), history_of(run)) == uninterrupted


def test_a_longer_training_is_not_reused_for_an_earlier_pause(trainings: TrainingRuns, uninterrupted: Any) -> None:
    run = trainings.staggered_run()
    run_stage("train", run)
    run.write_spec(run.read_spec().model_copy(update={"stop_at_step": 6}))
    assert run_stage("train", run).metrics["steps"] == 6
    assert trained_tensors(run) != uninterrupted[0]
    assert history_of(run) == [row for row in uninterrupted[1] if row["step"] <= 6]


def test_the_command_is_killed_then_stopped_then_completes(trainings: TrainingRuns) -> None:
    """Two of three processes receive a signal while they train."""
    training = {
        **STAGGERED_TRAINING,
        "max_steps": 160,
        "save_steps": 16,
        "eval_steps": 16,
        "early_stopping_patience": None,
    }
    run = trainings.new_run(tokens=trainings.tokens("rows", counting_rows(18)), **training)
    first = subprocess.Popen([*TRAIN_COMMAND, run.uri], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(checkpoint_steps(trainings.store)) > 0, first)
    first.kill()
    first.communicate()
    saved = checkpoint_steps(trainings.store)[-1]

    second = subprocess.Popen([*TRAIN_COMMAND, run.uri], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: checkpoint_steps(trainings.store)[-1] > saved, second)
    second.terminate()
    second.terminate()
    _, errors = second.communicate()
    assert second.returncode == 1
    assert f"checkpoint of step {saved}" in errors
    interrupted = AirsmithError.from_json_line(errors.splitlines()[-1])
    assert interrupted is not None
    assert interrupted.kind is ErrorKind.INTERRUPTED
    assert f"at step {checkpoint_steps(trainings.store)[-1]} of 160" in interrupted.message

    assert subprocess.run([*TRAIN_COMMAND, run.uri], stderr=subprocess.PIPE, check=True).returncode == 0
    resumed = trained_tensors(run), history_of(run)
    rows_of_run = [without_clock_columns(row) for row in run.metrics()]
    assert [row["step"] for row in rows_of_run] == sorted({row["step"] for row in resumed[1]})
    for folder in ("checkpoints", "artifacts/adapter"):
        for info in list(trainings.store.list(folder)):
            trainings.store.delete(info.path)
    run_stage("train", run)
    assert (trained_tensors(run), history_of(run)) == resumed
