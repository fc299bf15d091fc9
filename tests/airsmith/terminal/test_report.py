"""The report of a finished run says how well, how fast and where to ask."""

from __future__ import annotations

import io
import json
import uuid
from datetime import datetime, timezone

import pytest
from rich.console import Console

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.registry import Revision, record_current
from airsmith.terminal.report import print_report, read_report

NOW = datetime.now(timezone.utc)
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
    """A run that has trained and evaluated, and ships nothing."""
    dataset = {"id": "c/d", "validation_fraction": 0.1}
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"id": "a/b"}, "dataset": dataset, "serve": {"enabled": False}}
    )
    run = Run(Store.open(f"memory://{uuid.uuid4()}"), "runs/dag/run-1")
    plan = make_plan(recipe)
    run.write_spec(
        RunSpec(
            dag_id="dag",
            run_id="run",
            recipe=recipe,
            recipe_file="x.yaml",
            recipe_digest="",
            plan=plan,
            airsmith_version="0",
            created_at=NOW,
        )
    )
    lines = "".join(json.dumps(row) + "\n" for row in METRICS).encode()
    finish(run, "train", {"metrics.jsonl": lines, "loss.png": b"a picture"}, seconds=61.25)
    answers = "".join(json.dumps(row) + "\n" for row in ANSWERS).encode()
    finish(run, "evaluate", {"evaluation.json": json.dumps(EVALUATION).encode(), "answers.jsonl": answers}, seconds=2)
    return run


def finish(run: Run, stage: str, files: dict[str, bytes], seconds: float) -> None:
    digest = stage.ljust(64, "0")
    folder = f"artifacts/{stage}/{digest}"
    with write_artifact(run.store, folder, type=stage, digest=digest, inputs={}, versions={}) as writer:
        for name, data in files.items():
            writer.add_bytes(name, data)
        writer.publish()
    run.write_pointer(
        StagePointer(
            stage=stage, type=stage, digest=digest, location=folder, cached=False, started_at=NOW, seconds=seconds
        )
    )


def printed(run: Run) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_report(read_report(run), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_report_shows_answers_exact_match_curve_and_seconds(run: Run) -> None:
    shown = printed(run)
    for words in ("Where is my parcel?", "77", "base 0.0% → tuned 100.0%", "loss by step", "training", "validation"):
        assert words in shown
    assert "│ train    │    61.2 │" in shown


def test_the_curve_is_put_into_the_runs_folder(run: Run) -> None:
    assert f"{run.uri}/loss.png" in printed(run)
    assert run.read("loss.png") == b"a picture"


def test_a_curve_is_drawn_without_validation(run: Run) -> None:
    report = read_report(run)
    for row in report.metrics:
        row.pop("eval_loss", None)
    console = Console(file=io.StringIO(), width=140)
    print_report(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "training" in shown
    assert "validation" not in shown


def test_a_run_that_has_not_evaluated_is_refused_by_the_stages_name() -> None:
    run = Run(Store.open(f"memory://{uuid.uuid4()}"), "runs/dag/run-1")
    with pytest.raises(AirsmithError, match="no output of train yet"):
        read_report(run)


def test_a_served_run_ends_with_a_held_out_prompt_to_try(run: Run) -> None:
    spec = run.read_spec()
    serving = spec.recipe.model_copy(update={"serve": spec.recipe.serve.model_copy(update={"enabled": True})})
    run.write_spec(spec.model_copy(update={"recipe": serving}))
    record_current(
        run.store,
        serving.endpoint_name,
        Revision(id="1", engine="vllm", address="http://127.0.0.1:1", model_name="x", model_uri="m"),
    )
    shown = printed(run)
    assert "curl -s http://127.0.0.1:1/v1/chat/completions" in shown
    assert "Where is my parcel?" in shown.rsplit("curl", 1)[1]
