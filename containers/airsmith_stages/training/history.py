"""Queries on a training's history: the best step, early stopping, the last losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""`{"step", "eval_loss"}`, or `{"step", "loss", "learning_rate", "grad_norm", "epoch"}` and the clock columns."""

CLOCK_COLUMNS = ("tokens_per_second", "tflops_per_second", "mfu", "peak_memory_bytes")
"""Columns that differ between attempts: speed, TFLOPS per device, model FLOPs utilization (MFU), memory."""


def last_value(history: Sequence[Row], name: str) -> float | None:
    """The newest value of a column."""
    return next((row[name] for row in reversed(history) if name in row), None)


def lowest_eval_loss(history: Sequence[Row]) -> float | None:
    """The lowest validation loss."""
    return min((row["eval_loss"] for row in history if "eval_loss" in row), default=None)


def was_evaluated(history: Sequence[Row], step: int) -> bool:
    """Whether the history contains a validation of this step."""
    return any("eval_loss" in row and row["step"] == step for row in history)


def best_step(history: Sequence[Row], save_steps: int, last_step: int) -> int | None:
    """The step with the lowest validation loss among the steps with a scheduled checkpoint.

    Checkpoints after interruptions do not count: the best weights must not depend on interruptions.

    :param last_step: the training's last step, which also has a checkpoint.
    """
    candidates = [
        row for row in history if "eval_loss" in row and (row["step"] % save_steps == 0 or row["step"] == last_step)
    ]
    return min(candidates, key=lambda row: row["eval_loss"])["step"] if candidates else None


def is_patience_exhausted(history: Sequence[Row], patience: int | None) -> bool:
    """Whether `patience` validations have passed since the lowest loss."""
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    return patience is not None and bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience
