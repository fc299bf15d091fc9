"""Fixtures of the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.training_process import TrainCommand, train_command
from tests.support.training_runs import TrainingRuns, counting_rows, history_of, trained_tensors


@pytest.fixture
def trainings(tmp_path: Path) -> TrainingRuns:
    return TrainingRuns(tmp_path)


@pytest.fixture
def rows() -> list[list[list[int]]]:
    return counting_rows(18)


@pytest.fixture
def train(tmp_path: Path) -> TrainCommand:
    return train_command(tmp_path / "train.log")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The tensors and the history of a training that nothing interrupts."""
    from airsmith_stages.stage_runner import run_stage

    run = TrainingRuns(tmp_path_factory.mktemp("uninterrupted")).staggered_run()
    run_stage("train", run)
    return trained_tensors(run), history_of(run)
