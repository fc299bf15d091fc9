"""A slow upload delays no training step, and later steps do not change the saved checkpoint."""

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
"""A training that waits this long for its upload fails the test."""
LAST_STEP_BEFORE_THE_NEXT_CHECKPOINT = 7


@pytest.fixture
def delayed_upload(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Delays the upload of checkpoint 4 until step 7 starts, and records whether it started."""
    step_7_started = threading.Event()
    has_started: list[bool] = []
    publish, training_step = CheckpointUploader._publish, ResumableTrainer.training_step

    def publish_after_step_7(uploader: CheckpointUploader, step: int, *rest: Any) -> None:
        if step == 4:
            has_started.append(step_7_started.wait(PATIENCE_SECONDS))
        publish(uploader, step, *rest)

    def training_step_with_event(trainer: ResumableTrainer, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == LAST_STEP_BEFORE_THE_NEXT_CHECKPOINT:
            step_7_started.set()
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(CheckpointUploader, "_publish", publish_after_step_7)
    monkeypatch.setattr(ResumableTrainer, "training_step", training_step_with_event)
    return has_started


@pytest.mark.parametrize("method", [None, {"name": "full"}], ids=["lora", "full"])
def test_training_continues_during_an_upload_without_changing_the_checkpoint(
    trainings: TrainingRuns,
    tmp_path_factory: pytest.TempPathFactory,
    delayed_upload: list[bool],
    method: dict[str, Any] | None,
) -> None:
    training = {"eval_steps": None, "save_total_limit": 9, "weight_decay": 0.1}
    run_stage("train", trainings.new_run(tokens=trainings.tokens("rows", counting_rows(18)), method=method, **training))
    assert delayed_upload
    assert all(delayed_upload)
    assert checkpoint_steps(trainings.store) == [4, 8, 12]

    # This training stops at that step, so that no later step can change the checkpoint.
    folder = tmp_path_factory.mktemp("paused")
    paused = TrainingRuns(folder)
    run = paused.new_run(tokens=paused.tokens("rows", counting_rows(18)), method=method, **training)
    run.write_spec(run.read_spec().model_copy(update={"stop_at_step": 4}))
    run_stage("train", run)
    assert tensors_of_step(trainings.store, 4) == tensors_of_step(paused.store, 4) != {}


def tensors_of_step(store: Store, step: int) -> dict[str, bytes]:
    """Read the bytes of all tensors in the safetensors files of a checkpoint."""
    from safetensors.torch import load

    paths = [info.path for info in store.list("checkpoints") if f"/{step}/" in info.path]
    files = [load(store.read(path)) for path in paths if path.endswith(".safetensors")]
    return {name: tensor.numpy().tobytes() for file in files for name, tensor in file.items()}
