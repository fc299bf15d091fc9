"""Stage `compare_trials`: publish the results of a sweep's trials as tables and a plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from airsmith.artifacts.manifest import Metric
from airsmith.contracts.cache import Output
from airsmith.contracts.spec import TrialResult
from airsmith_stages.stage_context import StageContext

ROWS_FILE, TABLE_FILE, SHEET_FILE, PLOT_FILE = "trials.json", "trials.md", "trials.csv", "trials.png"


def run(context: StageContext) -> Output:
    """Publish the trials, best first."""
    trials = ranked(context.spec.trials)
    plot = context.scratch / PLOT_FILE
    draw(trials, context.spec.recipe.name, plot)
    with context.write_output() as output:
        output.add_bytes(ROWS_FILE, json.dumps([trial.model_dump(mode="json") for trial in trials], indent=2).encode())
        output.add_bytes(TABLE_FILE, table(trials).encode())
        output.add_bytes(SHEET_FILE, sheet(trials).encode())
        output.add_file(PLOT_FILE, plot)
        winner = next(trial for trial in trials if trial.is_winner)
        metrics: dict[str, Metric] = {"trials": len(trials), "winner": winner.name, "eval_loss": winner.eval_loss}
        return Output.of_artifact(output.publish(metrics=metrics))


def ranked(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Sort trials: failed trials last, the winner first, then by most steps and lowest loss."""
    return sorted(
        trials, key=lambda trial: (trial.eval_loss is None, not trial.is_winner, -trial.steps, trial.eval_loss or 0.0)
    )


def table(trials: Sequence[TrialResult]) -> str:
    """The trials as a Markdown table."""
    keys = _keys(trials)
    lines = [f"| place | {' | '.join(keys)} | steps | validation loss |", f"|---{'|---' * len(keys)}|---|---|"]
    for place, trial in enumerate(trials, start=1):
        values = " | ".join(str(trial.values.get(key, "")) for key in keys)
        loss = "failed" if trial.eval_loss is None else f"{trial.eval_loss:.4f}"
        lines.append(f"| {place}{' (winner)' if trial.is_winner else ''} | {values} | {trial.steps} | {loss} |")
    return "\n".join(lines) + "\n"


def sheet(trials: Sequence[TrialResult]) -> str:
    """The trials as CSV."""
    keys, text = _keys(trials), io.StringIO()
    rows = csv.writer(text)
    rows.writerow([*keys, "steps", "eval_loss", "is_winner"])
    rows.writerows(
        [*(trial.values.get(key, "") for key in keys), trial.steps, trial.eval_loss, trial.is_winner]
        for trial in trials
    )
    return text.getvalue()


def draw(trials: Sequence[TrialResult], title: str, path: Path) -> None:
    """Plot the loss over the first varied field; trials that were stopped early are hollow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    key = _keys(trials)[0]
    known = [trial for trial in trials if trial.eval_loss is not None]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = [trial.values.get(key) for trial in known]
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    places = values if are_numbers else list(range(len(known)))
    furthest = max(trial.steps for trial in known)
    for trial, place in zip(known, places, strict=True):
        color = "tab:green" if trial.is_winner else "tab:blue"
        fill = color if trial.steps == furthest else "none"
        axes.plot(place, trial.eval_loss, "o", markeredgecolor=color, markerfacecolor=fill, markersize=8)
        axes.annotate(f"{trial.steps}", (place, trial.eval_loss), textcoords="offset points", xytext=(6, 6), fontsize=8)
    if not are_numbers:
        axes.set_xticks(places, [str(value) for value in values], rotation=30, ha="right")
    axes.set(title=f"{title}: trials, with their steps", xlabel=key, ylabel="validation loss (nats per token)")
    axes.grid(alpha=0.3)
    figure.savefig(path)


def _keys(trials: Sequence[TrialResult]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.values))
