"""Measures losses, tokens and time of a training across interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from airsmith_stages.training.flops import TrainingFlops
from airsmith_stages.training.sampler import SeededBatchSampler


class Meter:
    """Measures the window between two rows of the history, and the whole training.

    The loss of an open window is part of the checkpoint, so that the history of a resumed training equals that of an
    uninterrupted one.
    """

    def __init__(
        self, sampler: SeededBatchSampler, training_flops: TrainingFlops, peak_memory_bytes: Callable[[], int]
    ) -> None:
        self.step_loss: float | None = None
        self.tokens_per_second: float | None = None
        self.mfu: float | None = None
        self._sampler = sampler
        self._training_flops = training_flops
        self._peak_memory_bytes = peak_memory_bytes
        self._loss_sum = 0.0
        self._loss_steps = 0
        self._seconds_before = 0.0
        self._running_loss = 0.0
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start the clock at a step."""
        self._started_at = self._window_started_at = time.monotonic()
        self._start_step = self._window_start_step = step

    def add_loss(self, loss: float) -> None:
        """Add a micro-batch's share of its step's loss."""
        self._running_loss += loss

    def end_step(self, mean_over_ranks: Callable[[float], float]) -> None:
        """Finish an optimizer step.

        :param mean_over_ranks: computes the mean of a value over all ranks.
        """
        self.step_loss, self._running_loss = mean_over_ranks(self._running_loss), 0.0
        self._loss_sum += self.step_loss
        self._loss_steps += 1

    def close_window(self, step: int) -> dict[str, float]:
        """Columns of a history row: mean loss and speed since the last window, and peak memory."""
        loss = self._loss_sum / max(self._loss_steps, 1)
        self._loss_sum, self._loss_steps = 0.0, 0
        now = time.monotonic()
        tokens = self._sampler.tokens_until(step) - self._sampler.tokens_until(self._window_start_step)
        self.tokens_per_second = tokens / max(now - self._window_started_at, 1e-9)
        self._window_started_at, self._window_start_step = now, step
        flops_columns = self._training_flops.columns(self.tokens_per_second, self._sampler.world_size)
        self.mfu = flops_columns.get("mfu")
        return {
            "loss": loss,
            "tokens_per_second": round(self.tokens_per_second, 1),
            **flops_columns,
            "peak_memory_bytes": self._peak_memory_bytes(),
        }

    def seconds(self) -> float:
        """Duration of the steps so far, over all attempts."""
        return self._seconds_before + time.monotonic() - self._started_at

    def tokens(self, step: int) -> int:
        """Number of tokens, without padding, up to a step."""
        return self._sampler.tokens_until(step)

    def remaining_seconds(self, step: int, total_steps: int) -> float | None:
        """Estimate of the remaining time from the steps of this attempt."""
        done = step - self._start_step
        return (time.monotonic() - self._started_at) / done * (total_steps - step) if done else None

    def state(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"loss_sum": self._loss_sum, "loss_steps": self._loss_steps, "seconds": self.seconds()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._loss_sum, self._loss_steps = state["loss_sum"], state["loss_steps"]
        self._seconds_before = state["seconds"]
