"""Training gives the same result with any world size, and resumes with another one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.read import open_artifact
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.stage_runner import run_stage
from tests.support.processes import DEADLINE_SECONDS, wait_for
from tests.support.stage_runs import output_of
from tests.support.training_runs import TRAIN_COMMAND, TrainingRuns, checkpoint_steps, counting_rows, history_of

FULL = {"name": "full"}
# The rows divide neither by the batch size nor by two ranks: an epoch's last step has an empty batch.
TRAINING = {
    "max_steps": 11,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 1,
    "logging_steps": 1,
    "eval_steps": 3,
    "save_steps": 4,
    "lr_scheduler_type": "cosine",
}
LONG = {**TRAINING, "max_steps": 45, "save_steps": 5, "eval_steps": 20}


@pytest.fixture(scope="module")
def new_trainings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], TrainingRuns]:
    """Creates `TrainingRuns`, each with its own store."""

    def make() -> TrainingRuns:
        folder = tmp_path_factory.mktemp("trainings")
        return TrainingRuns(folder)

    return make


def run_on(trainings: TrainingRuns, devices: int, method: dict[str, Any] | None = None, **training: Any) -> Run:
    tokens = open_artifact(trainings.store, "artifacts/tokens/rows") or trainings.tokens(
        "rows", counting_rows(17), validation=counting_rows(5)
    )
    recipe = {"backend": {"devices": devices}}
    return trainings.new_run(tokens=tokens, method=method, recipe=recipe, **{**TRAINING, **training})


def train(run: Run) -> str:
    done = subprocess.run([*TRAIN_COMMAND, run.uri], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module", params=[None, FULL], ids=["lora", "full"])
def alone_and_together(request: pytest.FixtureRequest, new_trainings: Callable[[], TrainingRuns]) -> tuple[Run, Run]:
    """The same training with one rank and with two."""
    runs = run_on(new_trainings(), 1, request.param), run_on(new_trainings(), 2, request.param)
    for run in runs:
        train(run)
    return runs


def test_two_ranks_have_the_losses_of_one(alone_and_together: tuple[Run, Run]) -> None:
    one, two = (history_of(run) for run in alone_and_together)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for alone, together in zip(one, two, strict=True):
        for name in alone:
            assert together[name] == pytest.approx(alone[name], abs=1e-5), (name, alone["step"])


def test_shards_of_full_training_are_consolidated_to_the_model_of_one_rank(
    new_trainings: Callable[[], TrainingRuns], tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    models = []
    for devices in (1, 2):
        trainings = new_trainings()
        base = trainings.base_model("tied", dtype="bfloat16", tie_word_embeddings=True)
        tokens = trainings.tokens("rows", counting_rows(9))
        training = {**TRAINING, "max_steps": 2, "eval_steps": None}
        recipe = {"backend": {"devices": devices}}
        run = trainings.new_run(tokens=tokens, base=base, method=FULL, recipe=recipe, **training)
        train(run)
        if devices > 1:
            assert output_of(run, "train").type == "model_shards"
            run_stage("consolidate", run)
        pointer = run.pointer("consolidate" if devices > 1 else "train")
        assert pointer is not None
        assert pointer.type == "model"
        artifact = open_artifact(run.store, pointer.location)
        assert artifact is not None
        models.append(artifact.download(tmp_path / str(devices)))
        run_stage("merge", run)
        merged = run.pointer("merge")
        assert merged is not None
        assert merged.location == pointer.location
    assert {path.name for path in models[0].iterdir()} == {path.name for path in models[1].iterdir()}
    one, two = (load_file(folder / "model.safetensors") for folder in models)
    assert {name: (value.dtype, value.shape) for name, value in one.items()} == {
        name: (value.dtype, value.shape) for name, value in two.items()
    }
    assert "lm_head.weight" not in two
    for name in one:
        assert (one[name].float() - two[name].float()).abs().max() < 2e-3, name
    AutoModelForCausalLM.from_pretrained(models[1])


@pytest.mark.parametrize("method", [None, FULL], ids=["lora", "full"])
def test_a_killed_rank_and_a_resumed_training_equal_uninterrupted(
    new_trainings: Callable[[], TrainingRuns], method: dict[str, Any] | None
) -> None:
    trainings = new_trainings()
    run = run_on(trainings, 2, method, **LONG)
    launcher = start(run)
    wait_for(lambda: len(checkpoint_steps(trainings.store)) > 0, launcher)
    os.kill(processes_of(launcher)[1], signal.SIGKILL)
    error = error_of(launcher)
    assert error.kind is ErrorKind.KILLED
    assert "Process 1 of the training was killed" in error.message
    assert run.statuses()["train"].state == "failed"
    saved = checkpoint_steps(trainings.store)[-1]
    assert saved < LONG["max_steps"]
    assert f"checkpoint of step {saved}" in train(run)

    other = run_on(new_trainings(), 2, method, **LONG)
    train(other)
    assert history_of(run) == history_of(other)
    assert tensors_of(run) == tensors_of(other)


@pytest.mark.parametrize("method", [None, FULL], ids=["lora", "full"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_checkpoint_is_resumed_with_another_world_size(
    new_trainings: Callable[[], TrainingRuns], method: dict[str, Any] | None, before: int, after: int
) -> None:
    trainings = new_trainings()
    launcher = start(run_on(trainings, before, method, **LONG))
    wait_for(lambda: len(checkpoint_steps(trainings.store)) > 0, launcher)
    launcher.terminate()
    error = error_of(launcher)
    assert error.kind is ErrorKind.INTERRUPTED
    step = checkpoint_steps(trainings.store)[-1]
    assert f"at step {step} of 45" in error.message
    run = run_on(trainings, after, method, **LONG)
    assert f"checkpoint of step {step}" in train(run)

    alone = run_on(new_trainings(), 1, method, **LONG)
    run_stage("train", alone)
    for uninterrupted, resumed in zip(history_of(alone), history_of(run), strict=True):
        for name in {"loss", "eval_loss", "learning_rate"} & uninterrupted.keys():
            assert resumed[name] == pytest.approx(uninterrupted[name], abs=1e-5), (name, resumed["step"])


def test_the_error_of_a_rank_is_reported_once(new_trainings: Callable[[], TrainingRuns]) -> None:
    trainings = new_trainings()
    tokens = trainings.tokens("long", counting_rows(4, lengths=lambda row: 80))
    run = trainings.new_run(tokens=tokens, recipe={"backend": {"devices": 2}}, **TRAINING)
    launcher = start(run)
    error = error_of(launcher)
    assert error.kind is ErrorKind.BAD_RECIPE
    assert run.statuses()["train"].error == error.message


def test_ranks_exit_with_the_launcher(new_trainings: Callable[[], TrainingRuns]) -> None:
    trainings = new_trainings()
    launcher = start(run_on(trainings, 2, **{**LONG, "max_steps": 10_000}))
    wait_for(lambda: len(checkpoint_steps(trainings.store)) > 0, launcher)
    processes = processes_of(launcher)
    launcher.kill()
    launcher.communicate()
    wait_for(lambda: not any(Path(f"/proc/{process}/cmdline").exists() for process in processes))


def start(run: Run) -> subprocess.Popen[str]:
    return subprocess.Popen([*TRAIN_COMMAND, run.uri], stderr=subprocess.PIPE, text=True)


def processes_of(launcher: subprocess.Popen[str]) -> list[int]:
    """Return the PIDs of the ranks, in order."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    environments = {int(child): Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
    ranks = {
        int(variable.removeprefix(b"RANK=")): process
        for process, variables in environments.items()
        for variable in variables
        if variable.startswith(b"RANK=")
    }
    return [ranks[rank] for rank in sorted(ranks)]


def error_of(launcher: subprocess.Popen[str]) -> AirsmithError:
    _, log = launcher.communicate(timeout=DEADLINE_SECONDS)
    assert launcher.returncode == 1, log
    errors = [line for line in log.splitlines() if line.startswith('{"error"')]
    assert errors == log.splitlines()[-1:], log
    error = AirsmithError.from_json_line(errors[0])
    assert error is not None
    return error


def tensors_of(run: Run) -> dict[tuple[str, str], bytes]:
    """Read the bytes of all trained tensors, by file and name."""
    from safetensors.numpy import load

    artifact = output_of(run, "train")
    files = [name for name in artifact.names() if name.endswith(".safetensors")]
    return {(file, name): tensor.tobytes() for file in files for name, tensor in load(artifact.read(file)).items()}
