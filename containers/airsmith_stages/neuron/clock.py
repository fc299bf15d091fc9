"""Tokens and seconds of a training, counted over its restarts."""

from __future__ import annotations

import time


class Clock:
    """Counts the tokens of the rows, without padding, and the time that the steps took.

    :ivar step_loss: None: a step's loss is on the device, and reading it would hold the device up.
    :ivar mfu: None: the library's own goes into the history, labelled with its convention.
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
        self._began_at = self._window_began_at = time.monotonic()
        self._began_step = step
        self._window_tokens = 0

    def end_step(self, tokens: int) -> None:
        """Count a step."""
        self.tokens += tokens
        self._window_tokens += tokens

    def close_window(self) -> float:
        """Tokens per second since the last window."""
        now = time.monotonic()
        self.tokens_per_second = self._window_tokens / max(now - self._window_began_at, 1e-9)
        self._window_began_at, self._window_tokens = now, 0
        return self.tokens_per_second

    def seconds(self) -> float:
        """Time spent on the steps so far, by all attempts."""
        return self._seconds_before + time.monotonic() - self._began_at

    def seconds_to_go(self, step: int, total_steps: int) -> float | None:
        """Estimate from the steps of this attempt."""
        done = step - self._began_step
        return (time.monotonic() - self._began_at) / done * (total_steps - step) if done else None

    def restore(self, tokens: int, seconds: float) -> None:
        """Go on from a checkpoint."""
        self.tokens, self._seconds_before = tokens, seconds
