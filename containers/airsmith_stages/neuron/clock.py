"""Counts tokens and time of a training across restarts."""

from __future__ import annotations

import time


class Clock:
    """Counts tokens, without padding, and the duration of the steps.

    :ivar step_loss: None: a step's loss is on the device, and reading it would stall the device.
    :ivar mfu: None: the history contains the library's value, under a name that states its convention.
    """

    step_loss: float | None = None
    mfu: float | None = None

    def __init__(self) -> None:
        self.tokens = 0
        self.tokens_per_second: float | None = None
        self._seconds_before = 0.0
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start the clock at a step."""
        self._started_at = self._window_started_at = time.monotonic()
        self._start_step = step
        self._window_tokens = 0

    def end_step(self, tokens: int) -> None:
        """Count the tokens of a step."""
        self.tokens += tokens
        self._window_tokens += tokens

    def close_window(self) -> float:
        """Tokens per second since the last window."""
        now = time.monotonic()
        self.tokens_per_second = self._window_tokens / max(now - self._window_started_at, 1e-9)
        self._window_started_at, self._window_tokens = now, 0
        return self.tokens_per_second

    def seconds(self) -> float:
        """Duration of the steps so far, over all attempts."""
        return self._seconds_before + time.monotonic() - self._started_at

    def remaining_seconds(self, step: int, total_steps: int) -> float | None:
        """Estimate of the remaining time from the steps of this attempt."""
        done = step - self._start_step
        return (time.monotonic() - self._started_at) / done * (total_steps - step) if done else None

    def restore(self, tokens: int, seconds: float) -> None:
        """Restore the counts of a checkpoint."""
        self.tokens, self._seconds_before = tokens, seconds
