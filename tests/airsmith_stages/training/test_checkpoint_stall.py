"""A store that does not answer holds up no step after a checkpoint, and those steps do not change what is saved."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from airsmith.artifacts.store import Store
from airsmith_stages.stage_runner import run_stage
from airsmith_stages.training.checkpoints import CheckpointUploader
from airsmith_stages.training.trainer import ResumableTrainer
from tests.support.training_runs import TrainingRuns, checkpoint_steps, counting_rows

PATIENCE_SECONDS = 60
"""After which a training that waits for its upload has failed the test."""
LAST_STEP_BEFORE_THE_NEXT_CHECKPOINT = 7


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Lets all that goes on behind the training for the checkpoint of step 4 wait for step 7; whether that began."""
    steps_went_on = threading.Event()
    seen: list[bool] = []
    publish, training_step = CheckpointUploader._publish, ResumableTrainer.training_step

    def held_up(uploader: CheckpointUploader, step: int, *rest: Any) -> None:
        if step == 4:
            seen.append(steps_went_on.wait(PATIENCE_SECONDS))
        publish(uploader, step, *rest)

    def noticed(trainer: ResumableTrainer, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == LAST_STEP_BEFORE_THE_NEXT_CHECKPOINT:
            steps_went_on.set()
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(CheckpointUploader, "_publish", held_up)
    monkeypatch.setattr(ResumableTrainer, "training_step", noticed)
    return seen


@pytest.mark.parametrize("method", [None, {"name": "full"}], ids=["lora", "full"])
def test_steps_go_on_while_a_checkpoint_is_uploaded_and_it_stays_what_it_was(
    trainings: TrainingRuns, tmp_path_factory: pytest.TempPathFactory, waits: list[bool], method: dict[str, Any] | None
) -> None:
    training = {"eval_steps": None, "save_total_limit": 9, "weight_decay": 0.1}
    run_stage("train", trainings.new_run(tokens=trainings.tokens("rows", counting_rows(18)), method=method, **training))
    assert waits
    assert all(waits)
    assert checkpoint_steps(trainings.store) == [4, 8, 12]

    # Its training ends with that step: nothing can have changed what is saved.
    folder = tmp_path_factory.mktemp("paused")
    paused = TrainingRuns(folder)
    run = paused.new_run(tokens=paused.tokens("rows", counting_rows(18)), method=method, **training)
    run.write_spec(run.read_spec().model_copy(update={"stop_at_step": 4}))
    run_stage("train", run)
    assert tensors_of_step(trainings.store, 4) == tensors_of_step(paused.store, 4) != {}


def tensors_of_step(store: Store, step: int) -> dict[str, bytes]:
    """What a step's checkpoint holds as safetensors, bit by bit."""
    from safetensors.torch import load

    paths = [info.path for info in store.list("checkpoints") if f"/{step}/" in info.path]
    files = [load(store.read(path)) for path in paths if path.endswith(".safetensors")]
    return {name: tensor.numpy().tobytes() for file in files for name, tensor in file.items()}
