"""The report of a finished run has metrics, durations and a prompt for the endpoint."""

from __future__ import annotations

import io
import json
import uuid

import pytest
from rich.console import Console

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError
from airsmith.registry import record_current
from airsmith.terminal.report import print_report, read_report
from tests.support.recipes import new_recipe
from tests.support.registry import new_revision
from tests.support.runs import new_run, point_stage, publish_artifact

ANSWERS = [
    {
        "messages": [{"role": "user", "content": "Where is my parcel?"}],
        "expected": "shipping",
        "base": "77",
        "base_correct": False,
        "tuned": "shipping",
        "tuned_correct": True,
    }
]
EVALUATION = {"examples": 1, "base": {"exact_match": 0.0}, "tuned": {"exact_match": 1.0}}
METRICS = [{"step": 10, "loss": 2.5}, {"step": 20, "loss": 0.5, "eval_loss": 0.75}]


@pytest.fixture
def run() -> Run:
    """A run without serving that has trained and evaluated."""
    run = new_run(Store.open(f"memory://{uuid.uuid4()}"), recipe=new_recipe(serve={"enabled": False}))
    lines = "".join(json.dumps(row) + "\n" for row in METRICS).encode()
    finish(run, "train", {"metrics.jsonl": lines, "loss.png": b"a picture"}, seconds=61.25)
    answers = "".join(json.dumps(row) + "\n" for row in ANSWERS).encode()
    finish(run, "evaluate", {"evaluation.json": json.dumps(EVALUATION).encode(), "answers.jsonl": answers}, seconds=2)
    return run


def finish(run: Run, stage: str, files: dict[str, bytes], seconds: float) -> None:
    artifact = publish_artifact(run.store, stage, stage.ljust(64, "0"), files)
    point_stage(run, stage, artifact.folder, seconds=seconds)


def print_run(run: Run) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_report(read_report(run), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_report_has_answers_metrics_loss_curve_and_durations(run: Run) -> None:
    text = print_run(run)
    for words in ("Where is my parcel?", "77", "base 0.0% → tuned 100.0%", "loss by step", "training", "validation"):
        assert words in text
    assert "│ train    │    61.2 │" in text


def test_the_loss_curve_is_copied_into_the_run_folder(run: Run) -> None:
    assert f"{run.uri}/loss.png" in print_run(run)
    assert run.read("loss.png") == b"a picture"


def test_the_loss_curve_can_lack_validation(run: Run) -> None:
    report = read_report(run)
    for row in report.metrics:
        row.pop("eval_loss", None)
    console = Console(file=io.StringIO(), width=140)
    print_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "training" in text
    assert "validation" not in text


def test_an_unfinished_run_is_refused_with_the_missing_stage() -> None:
    run = Run(Store.open(f"memory://{uuid.uuid4()}"), "runs/dag/run-1")
    with pytest.raises(AirsmithError, match="no output of train yet"):
        read_report(run)


def test_the_report_of_a_served_run_ends_with_a_held_out_prompt(run: Run) -> None:
    spec = run.read_spec()
    serving = spec.recipe.model_copy(update={"serve": spec.recipe.serve.model_copy(update={"enabled": True})})
    run.write_spec(spec.model_copy(update={"recipe": serving}))
    record_current(
        run.store,
        serving.endpoint_name,
        new_revision(serving.name, address="http://127.0.0.1:1"),
    )
    text = print_run(run)
    assert "curl -s http://127.0.0.1:1/v1/chat/completions" in text
    assert "Where is my parcel?" in text.rsplit("curl", 1)[1]
