"""The contract of a stage's exit: 0 with a verified output, or one JSON line that says why not."""

from __future__ import annotations

import errno
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from airsmith.contracts.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes shows what a container writes here as the reason of its end."""


def exit_code_of(work: Callable[[], object]) -> int:
    """Do a stage's work; on failure print the JSON line last on stderr and to the pod's termination log.

    :returns: the process's exit code.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        work()
        return 0
    except BaseException as failure:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        error = as_airsmith_error(failure)
        if error.kind is ErrorKind.INTERNAL:
            traceback.print_exception(failure)
        _tell(error)
        return 1


def as_airsmith_error(failure: BaseException) -> AirsmithError:
    """The error of the closed list that an exception stands for."""
    if isinstance(failure, AirsmithError):
        return failure
    if isinstance(failure, MemoryError) or "out of memory" in str(failure).lower():
        return AirsmithError(
            ErrorKind.OUT_OF_MEMORY,
            f"The stage ran out of memory: {failure}.",
            "Lower training.max_per_device_train_batch_size or dataset.max_length, or give the stage more memory.",
        )
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return AirsmithError(
            ErrorKind.DISK_FULL,
            f"The disk is full: {failure}.",
            "Free space on the scratch disk, or set AIRSMITH_SCRATCH to a larger one.",
        )
    if isinstance(failure, KeyboardInterrupt):
        return AirsmithError(ErrorKind.INTERRUPTED, "The stage was interrupted from the keyboard.", "Run it again.")
    return AirsmithError(
        ErrorKind.INTERNAL, f"{type(failure).__name__}: {failure}", "See the traceback above in the log."
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise AirsmithError(
        ErrorKind.INTERRUPTED, "The stage was told to stop (SIGTERM).", "It starts anew when it is run again."
    )


def _tell(error: AirsmithError) -> None:
    line = error.to_json_line()
    logging.shutdown()
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    if TERMINATION_LOG.exists():
        try:
            TERMINATION_LOG.write_text(line)
        except OSError as failure:
            print(f"WARNING: {TERMINATION_LOG} could not be written: {failure}", file=sys.stdout, flush=True)
