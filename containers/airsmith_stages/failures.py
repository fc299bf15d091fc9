"""The contract of a stage's exit: 0 with a verified output, or one JSON line that says why not."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes shows what a container writes here as the reason of its end."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PARTNER_LOST = re.compile(r"Connection (closed|reset) by peer|Broken pipe|ncclRemoteError|failed to recv, got 0 bytes")
"""How gloo, NCCL and torch's store say that the process at the other end is gone, in exceptions of torch."""
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, safetensors for one, tell an errno: in the text of an exception of their own."""


class StopRequested(BaseException):
    """SIGTERM has arrived. Not an Exception: whatever library is at work must not take it for a failure of its own."""


def exit_code_of(work: Callable[[], object]) -> int:
    """Do a stage's work; on failure print the JSON line last on stderr and to the pod's termination log.

    :returns: the process's exit code.
    """
    signal.signal(signal.SIGTERM, _stop)
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


@contextmanager
def stage_errors() -> Iterator[None]:
    """Raise the error of the closed list in place of whatever else ends the block."""
    try:
        yield
    except AirsmithError:
        raise
    except BaseException as failure:
        raise as_airsmith_error(failure) from failure


def as_airsmith_error(failure: BaseException) -> AirsmithError:
    """The error of the closed list that an exception, or what has caused it, stands for."""
    if isinstance(failure, AirsmithError):
        return failure
    if isinstance(failure, StopRequested):
        return AirsmithError(
            ErrorKind.INTERRUPTED, "The stage was told to stop (SIGTERM).", "It starts anew when it is run again."
        )
    if isinstance(failure, KeyboardInterrupt):
        return AirsmithError(ErrorKind.INTERRUPTED, "The stage was interrupted from the keyboard.", "Run it again.")
    for cause in _causes(failure):
        if isinstance(cause, MemoryError) or "out of memory" in str(cause).lower():
            return AirsmithError(
                ErrorKind.OUT_OF_MEMORY,
                f"The stage ran out of memory: {_told(cause)}.",
                "Lower training.max_per_device_train_batch_size or dataset.max_length, or give the stage more memory.",
            )
        if _says_disk_full(cause):
            return AirsmithError(
                ErrorKind.DISK_FULL,
                f"The disk is full: {_told(cause)}.",
                f"Free space at {scratch_folder()}, or set AIRSMITH_SCRATCH to a folder on a larger disk.",
            )
        if _PARTNER_LOST.search(str(cause)) and _is_of_torch(cause):
            return AirsmithError(
                ErrorKind.KILLED,
                f"Another process of the training went away: {_told(cause).splitlines()[0]}.",
                "Run it again: it goes on from its newest checkpoint.",
            )
    return AirsmithError(ErrorKind.INTERNAL, f"{type(failure).__name__}: {failure}", "See the traceback in the log.")


def scratch_folder() -> str:
    """Where a stage keeps what it needs while it works."""
    return os.environ.get("AIRSMITH_SCRATCH") or tempfile.gettempdir()


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on: libraries wrap what they could not do."""
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


def _says_disk_full(failure: BaseException) -> bool:
    if isinstance(failure, OSError) and failure.errno is not None:
        return failure.errno in _DISK_FULL
    rust = _RUST_OS_ERROR.search(str(failure))
    # datasets looks at the room that is left, and raises an OSError without a number.
    return (rust is not None and int(rust[1]) in _DISK_FULL) or "not enough disk space" in str(failure).lower()


def _is_of_torch(failure: BaseException) -> bool:
    """Whether torch's communication has failed; gloo's errors are plain RuntimeErrors."""
    return type(failure) is RuntimeError or type(failure).__module__.startswith("torch")


def _told(failure: BaseException) -> str:
    return (str(failure) or type(failure).__name__).rstrip(".")


def _stop(signum: int, frame: FrameType | None) -> None:
    # One is enough: a second must not end the cleaning up after the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise StopRequested


def _tell(error: AirsmithError) -> None:
    line = error.to_json_line()
    launcher = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if launcher is not None:
        # Of several processes torchrun hears each, and whoever launched them tells the one that matters. The format is
        # that of `torch.distributed.elastic.multiprocessing.errors.ErrorHandler`.
        Path(launcher).write_text(json.dumps({"message": {"message": line, "extraInfo": {"timestamp": "0"}}}))
        return
    logging.shutdown()
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    if TERMINATION_LOG.exists():
        try:
            TERMINATION_LOG.write_text(line)
        except OSError as failure:
            print(f"WARNING: {TERMINATION_LOG} could not be written: {failure}", file=sys.stdout, flush=True)
