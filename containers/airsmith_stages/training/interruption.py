"""SIGTERM during training: the step is finished and a checkpoint published before the stage ends."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")


class Interruption:
    """Whether the process was told to stop."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note SIGTERM instead of ending at once. Further ones change nothing, not even after the block."""
        previous = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if self.requested else previous)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if not self.requested:
            log.info("Told to stop (SIGTERM): finishing this step, then publishing a checkpoint")
        self.requested = True


def interruption_error(steps: int, total_steps: int) -> AirsmithError:
    """What a training ends with that was told to stop."""
    return AirsmithError(
        ErrorKind.INTERRUPTED,
        f"Training was told to stop (SIGTERM) and did so at step {steps} of {total_steps}.",
        "Run it again: it goes on from the checkpoint of that step.",
    )
