"""SIGTERM during training: the stage finishes its step and publishes a checkpoint before it exits."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")


class Interruption:
    """Whether the process has received SIGTERM."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Record SIGTERM instead of stopping immediately. Further signals are ignored, even after the block."""
        previous = signal.signal(signal.SIGTERM, self._record)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if self.requested else previous)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        if not self.requested:
            log.info("Received SIGTERM: finishing this step, then publishing a checkpoint")
        self.requested = True


def interruption_error(steps: int, total_steps: int) -> AirsmithError:
    """The error of a training that SIGTERM has stopped."""
    return AirsmithError(
        ErrorKind.INTERRUPTED,
        f"SIGTERM stopped the training at step {steps} of {total_steps}.",
        "Run it again: it resumes from the checkpoint of that step.",
    )
