"""Reports a training's progress: the run's progress file, its metrics, and a periodic log line."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType

from airsmith.contracts.pointers import Progress
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError
from airsmith_stages.training.history import Row
from airsmith_stages.training.tracking import Tracker

log = logging.getLogger("airsmith")

WRITE_INTERVAL_SECONDS = 1.0
LOG_INTERVAL_SECONDS = 30.0
TRACKING_INTERVAL_SECONDS = 15.0
ROWS_PER_PART = 250
"""Rows of the history per object. The last part is rewritten as it grows."""

_PART_PREFIX = "train-"


class ProgressWriter:
    """Writes the latest state in a background thread, at most once a second, so that a slow store delays no step.

    Failures of the store are only logged: the history is also part of every checkpoint and of the output.
    """

    def __init__(self, run: Run, trackers: Sequence[Tracker] = ()) -> None:
        self._run = run
        self._trackers = trackers
        self._tracked_at = float("-inf")
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._rows: list[Row] = []
        self._written_rows = 0
        self._logged_at = time.monotonic()
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="progress", daemon=True)

    def __enter__(self) -> ProgressWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the remaining state."""
        self._closed.set()
        self._changed.set()
        self._thread.join()
        for tracker in self._trackers:
            self._log_failure_of(lambda tracker=tracker: tracker.end(failure))  # type: ignore[misc]

    def begin(self, history: Sequence[Row]) -> None:
        """Start from a checkpoint's history, and remove what an earlier attempt has written beyond it."""
        self._log_failure_of(lambda: self._remove_parts_beyond(len(history)))
        self.add_rows(history)

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Append to the history."""
        with self._lock:
            self._rows.extend(rows)
        self._changed.set()

    def update(self, progress: Progress) -> None:
        """Set the state to write next."""
        with self._lock:
            self._progress = progress
        self._changed.set()
        if time.monotonic() - self._logged_at >= LOG_INTERVAL_SECONDS:
            self._logged_at = time.monotonic()
            log.info(describe(progress))

    def _write_until_closed(self) -> None:
        while not self._closed.is_set():
            self._changed.wait()
            self._changed.clear()
            self._log_failure_of(self._write)
            self._closed.wait(WRITE_INTERVAL_SECONDS)
        self._log_failure_of(self._write)

    def _write(self) -> None:
        with self._lock:
            progress, rows = self._progress, list(self._rows)
        if progress is not None:
            self._run.write_progress(progress)
        for part in range(self._written_rows // ROWS_PER_PART, -(-len(rows) // ROWS_PER_PART)):
            self._run.write_metrics(_part_name(part), rows[part * ROWS_PER_PART : (part + 1) * ROWS_PER_PART])
        self._written_rows = len(rows)
        is_due = self._closed.is_set() or time.monotonic() - self._tracked_at >= TRACKING_INTERVAL_SECONDS
        if rows and is_due:
            self._tracked_at = time.monotonic()
            for tracker in self._trackers:
                self._log_failure_of(lambda tracker=tracker: tracker.write(rows))  # type: ignore[misc]

    def _remove_parts_beyond(self, rows: int) -> None:
        overwritten = {_part_name(part) for part in range(-(-rows // ROWS_PER_PART))}
        for part in self._run.metrics_parts():
            if part.startswith(_PART_PREFIX) and part not in overwritten:
                self._run.remove_metrics(part)

    def _log_failure_of(self, write: Callable[[], None]) -> None:
        try:
            write()
        except AirsmithError as error:
            log.warning("The training's progress could not be written: %s", error)


def describe(progress: Progress) -> str:
    """One line for the log."""
    share = progress.step / max(progress.total_steps, 1)
    parts = [f"{share:4.0%} |{_bar(share)}| step {progress.step}/{progress.total_steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.eval_loss is not None:
        parts.append(f"validation loss {progress.eval_loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.mfu is not None:
        parts.append(f"MFU {progress.mfu:.0%}")
    if progress.eta_seconds is not None:
        parts.append(f"{timedelta(seconds=round(progress.eta_seconds))} remaining")
    return ", ".join(parts)


def _bar(share: float, width: int = 20) -> str:
    done = round(share * width)
    return "#" * done + "-" * (width - done)


def _part_name(part: int) -> str:
    return f"{_PART_PREFIX}{part:06d}"
