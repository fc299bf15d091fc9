"""The progress view shows the status in the store, live in a terminal and by lines in a log."""

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
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.terminal.runs import find_run
from airsmith.terminal.watch import progress_line, render, take_snapshot, watch
from tests.support.recipes import new_recipe
from tests.support.runs import new_run

NOW = datetime.now(timezone.utc)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airsmith.terminal.watch.POLL_SECONDS", 0.01)


@pytest.fixture
def run() -> Run:
    """A resolved run."""
    return new_run(Store.open(f"memory://{uuid.uuid4()}"), dag_id="dag", recipe=new_recipe())


def watch_run(run: Run, *, terminal: bool) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    finished = watch(run, console)
    return finished, console.file.getvalue()  # type: ignore[attr-defined]


def finish_all_stages(run: Run) -> None:
    for stage in run.read_spec().plan.stages:
        StageRecord.start(stage.stage, run).write_status("cached" if stage.stage == "merge" else "done")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_closes_when_the_run_finishes(run: Run, terminal: bool) -> None:
    finish_all_stages(run)
    finished, text = watch_run(run, terminal=terminal)
    assert finished
    for stage in run.read_spec().plan.stages:
        assert stage.stage in text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_closes_with_the_error_of_a_failed_stage(run: Run, terminal: bool) -> None:
    StageRecord.start("mirror_model", run).fail(AirsmithError(ErrorKind.NOT_FOUND, "no such model", "look again"))
    finished, text = watch_run(run, terminal=terminal)
    assert not finished
    assert "no such model look again" in text


def test_the_caller_can_decide_when_the_run_has_ended(run: Run) -> None:
    """A failed stage can be retried, and Airflow ends a run only after its last stage."""
    StageRecord.start("mirror_model", run).fail(AirsmithError(ErrorKind.KILLED, "killed", ""))
    answers = iter([False, False, True])

    def has_finished() -> bool:
        finish_all_stages(run)
        return next(answers)

    assert watch(run, Console(file=io.StringIO()), has_finished)
    assert not list(answers)


def test_a_running_training_shows_loss_and_eta(run: Run) -> None:
    run.write_progress(
        Progress(
            stage="train", step=30, total_steps=400, loss=1.25, tokens_per_second=1234, eta_seconds=95, updated_at=NOW
        )
    )
    StageRecord.start("train", run).write_status("running")
    snapshot = take_snapshot(run)
    assert snapshot is not None
    assert snapshot.progress is not None
    assert progress_line(snapshot.progress) == "30/400  loss 1.2500  1,234 tok/s  ETA 1:35"
    console = Console(file=io.StringIO(), width=140)
    console.print(render(snapshot))
    assert "30/400  loss 1.2500" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_is_found_by_part_of_its_path_or_as_the_newest(run: Run) -> None:
    assert find_run(run.store.uri).path == run.path
    assert find_run(run.store.uri, "dag").path == run.path
    with pytest.raises(AirsmithError, match="nothing"):
        find_run(run.store.uri, "nothing")
