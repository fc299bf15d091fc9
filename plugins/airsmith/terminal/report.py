"""The result of a run: answers of the tuned model, exact match, loss curve, seconds per stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import plotext
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import read_endpoint
from airsmith.serving.chat import curl_command

CURVE_FILE = "loss.png"
CURVE_SIZE = (78, 16)  # columns, rows
MAX_SHOWN_ANSWERS = 6


@dataclass(frozen=True)
class Report:
    """The outputs of a finished run."""

    run: Run
    stages: tuple[StagePointer, ...]
    evaluation: dict[str, Any]
    answers: list[dict[str, Any]]
    metrics: list[dict[str, Any]]

    @property
    def exact_match_base(self) -> float:
        """Share of held-out examples that the base model answers exactly, from 0 to 1."""
        return float(self.evaluation["base"]["exact_match"])

    @property
    def exact_match_tuned(self) -> float:
        """Share of held-out examples that the tuned model answers exactly, from 0 to 1."""
        return float(self.evaluation["tuned"]["exact_match"])

    @property
    def stage_seconds(self) -> float:
        """Total time of all stages in seconds, including reused ones."""
        return sum(pointer.seconds for pointer in self.stages)


def read_report(run: Run) -> Report:
    """Read the outputs of a finished run, and copy its loss curve to the run's folder.

    :raises AirsmithError: `not_found` if a stage has no output.
    """
    trained = _output(run, "train")
    evaluated = _output(run, "evaluate")
    run.write(CURVE_FILE, trained.read(CURVE_FILE))
    pointers = [run.pointer(plan.stage) for plan in run.read_spec().plan.stages]
    return Report(
        run=run,
        stages=tuple(pointer for pointer in pointers if pointer is not None),
        evaluation=json.loads(evaluated.read("evaluation.json")),
        answers=_json_lines(evaluated.read("answers.jsonl")),
        metrics=_json_lines(trained.read("metrics.jsonl")),
    )


def print_report(report: Report, console: Console) -> None:
    """Print the answers side by side, exact match, the loss curve, seconds per stage, and how to query the endpoint."""
    console.print(_answer_table(report))
    console.print(
        f"Exact match on {report.evaluation['examples']} held-out examples: "
        f"base {report.exact_match_base:.1%} → tuned [bold green]{report.exact_match_tuned:.1%}[/]"
    )
    console.print(Text.from_ansi(_loss_curve(report.metrics)))
    console.print(f"Loss curve: {report.run.uri}/{CURVE_FILE}", soft_wrap=True)
    console.print(_stage_table(report))
    _print_endpoint(report, console)


def _output(run: Run, stage: str) -> Artifact:
    pointer = run.pointer(stage)
    artifact = open_artifact(run.store, pointer.location) if pointer is not None else None
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"Run {run.uri} has no output of {stage} yet.", f"Check `airsmith watch {run.uri}`."
        )
    return artifact


def _json_lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().splitlines()]


def _answer_table(report: Report) -> Table:
    table = Table(title="Held-out prompts", show_lines=True, expand=True)
    for heading, ratio in (("prompt", 4), ("base", 2), ("tuned", 2), ("expected", 2)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for answer in report.answers[:MAX_SHOWN_ANSWERS]:
        style = "green" if answer["tuned_correct"] else "red"
        table.add_row(
            Text(_prompt_text(answer)),
            Text(_shorten(answer["base"]), "dim"),
            Text(answer["tuned"], style),
            Text(answer["expected"]),
        )
    return table


def _prompt_text(answer: dict[str, Any]) -> str:
    messages = answer.get("messages")
    return str(messages[-1]["content"]) if messages else str(answer["prompt"])


def _shorten(text: str, max_length: int = 120) -> str:
    return text if len(text) <= max_length else f"{text[:max_length]}…"


def _loss_curve(rows: list[dict[str, Any]]) -> str:
    figure = plotext.figure  # A global figure, which plotext shares within the process.
    figure.clear()
    figure.theme("simple")
    figure.plot_size(*CURVE_SIZE)
    figure.title("loss by step")
    figure.legend(x=CURVE_SIZE[0] - 8, ha="right")
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            figure.draw(figure.signal(*map(list, zip(*points, strict=True))).lines().label(label))
    return str(figure.build())


def _stage_table(report: Report) -> Table:
    table = Table(title="Wall time per stage")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("")
    for pointer in report.stages:
        table.add_row(pointer.stage, f"{pointer.seconds:.1f}", "reused" if pointer.cached else "")
    table.add_row("total", f"{report.stage_seconds:.1f}", "", style="bold")
    return table


def _print_endpoint(report: Report, console: Console) -> None:
    recipe = report.run.read_spec().recipe
    endpoint = read_endpoint(report.run.store, recipe.endpoint_name) if recipe.serve.enabled else None
    if endpoint is None:
        return
    console.print(
        f"Chat endpoint {endpoint.name}: {endpoint.current.address}  (or: airsmith chat {endpoint.name})",
        soft_wrap=True,
    )
    question = _prompt_text(report.answers[0]) if report.answers else "Hello!"
    console.print(Text(curl_command(endpoint, question)), soft_wrap=True)
