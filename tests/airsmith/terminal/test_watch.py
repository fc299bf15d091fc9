"""The progress view shows what the store says, live in a terminal and line by line in a log."""

from __future__ import annotations

import io
import uuid
from datetime import datetime, timezone

import pytest
from rich.console import Console

from airsmith.artifacts.store import Store
from airsmith.contracts.pointers import Progress
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.terminal.runs import find_run
from airsmith.terminal.watch import progress_line, render, take_snapshot, watch

NOW = datetime.now(timezone.utc)


@pytest.fixture
def run() -> Run:
    """A run that has just been resolved."""
    dataset = {"id": "c/d", "validation_fraction": 0.1}
    recipe = Recipe.model_validate({"name": "x", "model": {"id": "a/b"}, "dataset": dataset})
    run = Run(Store.open(f"memory://{uuid.uuid4()}"), "runs/dag/run-1")
    run.write_spec(
        RunSpec(
            dag_id="dag",
            run_id="run",
            recipe=recipe,
            recipe_file="x.yaml",
            recipe_digest="",
            plan=make_plan(recipe),
            airsmith_version="0",
            created_at=NOW,
        )
    )
    return run


def watched(run: Run, *, terminal: bool) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    finished = watch(run, console)
    return finished, console.file.getvalue()  # type: ignore[attr-defined]


def finish_all(run: Run) -> None:
    for stage in run.read_spec().plan.stages:
        StageRecord.begin(stage.stage, run).tell("cached" if stage.stage == "merge" else "done")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_finished_run_ends_the_view(run: Run, terminal: bool) -> None:
    finish_all(run)
    finished, shown = watched(run, terminal=terminal)
    assert finished
    for stage in run.read_spec().plan.stages:
        assert stage.stage in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_ends_the_view_with_what_is_wrong(run: Run, terminal: bool) -> None:
    StageRecord.begin("mirror_model", run).fail(AirsmithError(ErrorKind.NOT_FOUND, "no such model", "look again"))
    finished, shown = watched(run, terminal=terminal)
    assert not finished
    assert "no such model look again" in shown


def test_whoever_drives_a_run_says_when_it_is_over(run: Run) -> None:
    """A failure may be retried, and after the last stage Airflow still has to end the run."""
    StageRecord.begin("mirror_model", run).fail(AirsmithError(ErrorKind.KILLED, "killed", ""))
    answers = iter([False, False, True])

    def ended() -> bool:
        finish_all(run)
        return next(answers)

    assert watch(run, Console(file=io.StringIO()), ended)
    assert not list(answers)


def test_the_training_shows_loss_and_time_left(run: Run) -> None:
    run.write_progress(
        Progress(
            stage="train", step=30, total_steps=400, loss=1.25, tokens_per_second=1234, eta_seconds=95, updated_at=NOW
        )
    )
    StageRecord.begin("train", run).tell("running")
    snapshot = take_snapshot(run)
    assert snapshot is not None
    assert snapshot.progress is not None
    assert progress_line(snapshot.progress) == "30/400  loss 1.2500  1,234 tok/s  ETA 1:35"
    console = Console(file=io.StringIO(), width=140)
    console.print(render(snapshot))
    assert "30/400  loss 1.2500" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_is_found_by_a_part_of_its_name_and_else_the_newest(run: Run) -> None:
    assert find_run(run.store.uri).path == "runs/dag/run-1"
    assert find_run(run.store.uri, "dag").path == "runs/dag/run-1"
    with pytest.raises(AirsmithError, match="nothing"):
        find_run(run.store.uri, "nothing")
