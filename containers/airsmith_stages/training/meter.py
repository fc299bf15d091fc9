"""Losses, tokens and seconds of a training, counted over interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from airsmith_stages.training.flops import Arithmetic
from airsmith_stages.training.sampler import SeededBatchSampler


class Meter:
    """Counts between two rows of the history, and over the whole training.

    The loss of a window that a checkpoint cuts in two goes into the checkpoint: the history of a resumed training is
    the one of an uninterrupted training.
    """

    def __init__(
        self, sampler: SeededBatchSampler, arithmetic: Arithmetic, peak_memory_bytes: Callable[[], int]
    ) -> None:
        self.step_loss: float | None = None
        self.tokens_per_second: float | None = None
        self.mfu: float | None = None
        self._sampler = sampler
        self._arithmetic = arithmetic
        self._peak_memory_bytes = peak_memory_bytes
        self._loss_sum = 0.0
        self._loss_steps = 0
        self._seconds_before = 0.0
        self._running_loss = 0.0
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start the clock at a step."""
        self._began_at = self._window_began_at = time.monotonic()
        self._began_step = self._window_began_step = step

    def add_loss(self, loss: float) -> None:
        """Add a micro-batch's share of its step's loss."""
        self._running_loss += loss

    def end_step(self, over_processes: Callable[[float], float]) -> None:
        """Close an optimizer step.

        :param over_processes: the mean of this process's loss and the others'.
        """
        self.step_loss, self._running_loss = over_processes(self._running_loss), 0.0
        self._loss_sum += self.step_loss
        self._loss_steps += 1

    def close_window(self, step: int) -> dict[str, float]:
        """Mean loss and speed since the last window, and the most memory that this process has taken so far."""
        loss = self._loss_sum / max(self._loss_steps, 1)
        self._loss_sum, self._loss_steps = 0.0, 0
        now = time.monotonic()
        tokens = self._sampler.tokens_until(step) - self._sampler.tokens_until(self._window_began_step)
        self.tokens_per_second = tokens / max(now - self._window_began_at, 1e-9)
        self._window_began_at, self._window_began_step = now, step
        computed = self._arithmetic.columns(self.tokens_per_second, self._sampler.world_size)
        self.mfu = computed.get("mfu")
        return {
            "loss": loss,
            "tokens_per_second": round(self.tokens_per_second, 1),
            **computed,
            "peak_memory_bytes": self._peak_memory_bytes(),
        }

    def seconds(self) -> float:
        """Time spent on the steps so far, by all attempts."""
        return self._seconds_before + time.monotonic() - self._began_at

    def tokens(self, step: int) -> int:
        """Tokens, without padding, trained on until a step."""
        return self._sampler.tokens_until(step)

    def seconds_to_go(self, step: int, total_steps: int) -> float | None:
        """Estimate from the steps of this attempt."""
        done = step - self._began_step
        return (time.monotonic() - self._began_at) / done * (total_steps - step) if done else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {"loss_sum": self._loss_sum, "loss_steps": self._loss_steps, "seconds": self.seconds()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._loss_sum, self._loss_steps = state["loss_sum"], state["loss_steps"]
        self._seconds_before = state["seconds"]
