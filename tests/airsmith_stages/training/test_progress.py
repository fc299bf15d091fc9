from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.store import Store
from airsmith.contracts.pointers import Progress
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.training import progress
from airsmith_stages.training.progress import ProgressWriter, describe


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(Store.open(f"file://{tmp_path}/store"), "runs/dag/run")


def at(step: int, **fields: Any) -> Progress:
    return Progress(stage="train", step=step, total_steps=400, updated_at=datetime.now(timezone.utc), **fields)


def rows(first: int, last: int) -> list[Mapping[str, Any]]:
    return [{"step": step, "loss": 1.0 / step} for step in range(first, last + 1)]


def test_the_latest_state_and_every_row_are_written(run: Run) -> None:
    with ProgressWriter(run) as writer:
        for step in range(1, 601):
            writer.add_rows(rows(step, step))
            writer.update(at(step))
    assert run.progress().step == 600
    assert run.metrics() == rows(1, 600)
    assert run.metrics_parts() == ["train-000000", "train-000001", "train-000002"]


def test_a_resumed_training_replaces_later_rows(run: Run) -> None:
    with ProgressWriter(run) as writer:
        writer.begin([])
        writer.add_rows(rows(1, 600))
    run.write_metrics("evaluation", [{"step": 1, "accuracy": 1.0}])
    with ProgressWriter(run) as writer:
        writer.begin(rows(1, 300))
    assert run.metrics_parts() == ["evaluation", "train-000000", "train-000001"]
    assert [row["step"] for row in run.metrics()] == list(range(1, 301))


def test_a_failing_store_is_logged_and_does_not_stop_the_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise AirsmithError(ErrorKind.STORE_UNAVAILABLE, "The store is away.")

    monkeypatch.setattr(Run, "write", fail)
    with ProgressWriter(run) as writer:
        writer.begin([])
        writer.update(at(1))
    assert "The store is away." in caplog.text


def test_a_log_line_describes_the_progress(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0)
    caplog.set_level("INFO", "airsmith")
    state = at(120, loss=0.53, eval_loss=0.61, tokens_per_second=21034.6, mfu=0.414, eta_seconds=95.2)
    with ProgressWriter(run) as writer:
        writer.update(state)
    line = (
        " 30% |######--------------| step 120/400, loss 0.5300, validation loss 0.6100, 21,035 tokens/s, MFU 41%, "
        "0:01:35 remaining"
    )
    assert describe(state) == line
    assert line in caplog.text
    assert describe(at(0)) == "  0% |--------------------| step 0/400"
