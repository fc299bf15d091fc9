"""Record a stage in the run's folder: its status while it runs, and a pointer as soon as its output exists."""

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
    """One attempt at a stage, recorded by the stage's process, or by Airflow if the output already exists.

    :param started_at: start of the attempt.
    :param monotonic_start: the same moment on the monotonic clock.
    """

    run: Run
    stage: str
    started_at: datetime
    monotonic_start: float

    @classmethod
    def start(cls, stage: str, run: Run) -> StageRecord:
        """Start the clock without writing anything."""
        return cls(run, stage, datetime.now(timezone.utc), time.monotonic())

    def seconds(self) -> float:
        """Wall time since the start of the attempt."""
        return round(time.monotonic() - self.monotonic_start, 3)

    def finish(self, output: Output, *, cached: bool) -> StagePointer:
        """Write the pointer to the output and the final status.

        :param cached: whether the output already existed.
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
        self.write_status("cached" if cached else "done")
        return pointer

    def fail(self, error: AirsmithError) -> None:
        """Write the status of a failed stage. A store error is only logged, so that it does not hide the failure."""
        try:
            self.write_status("interrupted" if error.kind is ErrorKind.INTERRUPTED else "failed", error)
        except AirsmithError as status_error:
            log.warning("The status of %s could not be written: %s", self.stage, status_error)

    def write_status(self, state: StageState, error: AirsmithError | None = None) -> None:
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
    """Write the status `running`, and the failure if the block raises."""
    record = StageRecord.start(stage, run)
    record.write_status("running")
    try:
        yield record
    except BaseException as failure:
        record.fail(failure if isinstance(failure, AirsmithError) else AirsmithError(ErrorKind.INTERNAL, repr(failure)))
        raise


def reuse_output(stage: str, run: Run, spec: RunSpec) -> StagePointer | None:
    """Point to a stage's output if it already exists; None if the stage must run.

    :raises AirsmithError: `not_found`, naming the upstream stage that has not run.
    """
    with recorded_stage(stage, run) as record:
        output = look_up_output(run, spec, stage)
        return record.finish(output, cached=True) if output.found else None
