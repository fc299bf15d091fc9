"""How a stage leaves its trace in the run's folder: its status while it works, its pointer once its output is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

from airsmith.contracts.cache import Output, look_up_output
from airsmith.contracts.pointers import StagePointer, StageState, StageStatus
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")


@dataclass(frozen=True)
class StageRecord:
    """One attempt at a stage, kept by the stage's own process, or by Airflow where the output is there already.

    :param started_at: when the attempt began.
    :param begun: the same moment on the monotonic clock.
    """

    run: Run
    stage: str
    started_at: datetime
    begun: float

    @classmethod
    def begin(cls, stage: str, run: Run) -> StageRecord:
        """Start the clock; nothing is written yet."""
        return cls(run, stage, datetime.now(timezone.utc), time.monotonic())

    def seconds(self) -> float:
        """Wall time since the attempt began."""
        return round(time.monotonic() - self.begun, 3)

    def finish(self, output: Output, *, cached: bool) -> StagePointer:
        """Point to the output and say that the stage is done.

        :param cached: whether the output was there before.
        """
        pointer = StagePointer(
            stage=self.stage,
            type=output.type,
            digest=output.digest,
            location=output.location,
            properties=output.properties,
            metrics=output.metrics,
            cached=cached,
            started_at=self.started_at,
            seconds=self.seconds(),
        )
        self.run.write_pointer(pointer)
        self.tell("cached" if cached else "done")
        return pointer

    def fail(self, error: AirsmithError) -> None:
        """Say why the stage has no output. A store that fails now changes nothing about the first failure."""
        try:
            self.tell("interrupted" if error.kind is ErrorKind.INTERRUPTED else "failed", error)
        except AirsmithError as unheard:
            log.warning("The status of %s could not be written: %s", self.stage, unheard)

    def tell(self, state: StageState, error: AirsmithError | None = None) -> None:
        """Write the stage's status."""
        status = StageStatus(
            stage=self.stage,
            state=state,
            started_at=self.started_at,
            seconds=self.seconds(),
            error=error.message if error else "",
            hint=error.hint if error else "",
        )
        self.run.write_status(status)


@contextmanager
def recorded_stage(stage: str, run: Run) -> Iterator[StageRecord]:
    """Keep the stage's status file true: running, then whatever the block ends with."""
    record = StageRecord.begin(stage, run)
    record.tell("running")
    try:
        yield record
    except BaseException as failure:
        record.fail(failure if isinstance(failure, AirsmithError) else AirsmithError(ErrorKind.INTERNAL, repr(failure)))
        raise


def reuse_output(stage: str, run: Run, spec: RunSpec) -> StagePointer | None:
    """Point to a stage's output where it is there already; None where the stage has to run.

    :raises AirsmithError: `not_found`, naming the upstream stage that has not run.
    """
    with recorded_stage(stage, run) as record:
        wanted = look_up_output(run, spec, stage)
        return record.finish(wanted, cached=True) if wanted.found else None
