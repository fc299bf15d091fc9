"""Writes a training's history as JSON Lines and its loss curve as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from airsmith_stages.training.history import Row

HISTORY_FILE, CURVE_FILE = "metrics.jsonl", "loss.png"


def write_history(history: Sequence[Row], title: str, folder: Path) -> None:
    """Write the history as JSON Lines and as a picture."""
    (folder / HISTORY_FILE).write_text("".join(json.dumps(row) + "\n" for row in history))
    draw_loss_curve(history, title, folder / CURVE_FILE)


def draw_loss_curve(history: Sequence[Row], title: str, path: Path) -> None:
    """Draw training and validation loss by step as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for column, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(row["step"], row[column]) for row in history if column in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.5, markersize=3)
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
