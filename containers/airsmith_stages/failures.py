"""The contract of a stage's exit: code 0 with a verified output, or one JSON line with the error."""

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
"""Kubernetes reports the content of this file as the container's termination message."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PEER_LOST = re.compile(r"Connection (closed|reset) by peer|Broken pipe|ncclRemoteError|failed to recv, got 0 bytes")
"""Messages of gloo, NCCL and torch's store, in torch's exceptions, after the peer process has exited."""
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, such as safetensors, report an errno: in the message of their exceptions."""


class StopRequested(BaseException):
    """Raised on SIGTERM. Not an Exception, so that no library handles it as one of its own failures."""


def exit_code_of(work: Callable[[], object]) -> int:
    """Run a function; if it fails, write the error as the last line of stderr and to the pod's termination log.

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
        _report(error)
        return 1


@contextmanager
def stage_errors() -> Iterator[None]:
    """Convert any exception of the block to an AirsmithError."""
    try:
        yield
    except AirsmithError:
        raise
    except BaseException as failure:
        raise as_airsmith_error(failure) from failure


def as_airsmith_error(failure: BaseException) -> AirsmithError:
    """The AirsmithError for an exception, derived from the exception or its causes."""
    if isinstance(failure, AirsmithError):
        return failure
    if isinstance(failure, StopRequested):
        return AirsmithError(
            ErrorKind.INTERRUPTED, "The stage was stopped by SIGTERM.", "Run it again: it starts from the beginning."
        )
    if isinstance(failure, KeyboardInterrupt):
        return AirsmithError(ErrorKind.INTERRUPTED, "The stage was interrupted from the keyboard.", "Run it again.")
    for cause in _causes(failure):
        if isinstance(cause, MemoryError) or "out of memory" in str(cause).lower():
            return AirsmithError(
                ErrorKind.OUT_OF_MEMORY,
                f"The stage ran out of memory: {_message(cause)}.",
                "Lower training.max_per_device_train_batch_size or dataset.max_length, or increase the stage's memory.",
            )
        if _is_disk_full(cause):
            return AirsmithError(
                ErrorKind.DISK_FULL,
                f"The disk is full: {_message(cause)}.",
                f"Free space at {scratch_folder()}, or set AIRSMITH_SCRATCH to a folder on a larger disk.",
            )
        if _PEER_LOST.search(str(cause)) and _is_from_torch(cause):
            return AirsmithError(
                ErrorKind.KILLED,
                f"The connection to another process of the training was lost: {_message(cause).splitlines()[0]}.",
                "Run it again: it resumes from its newest checkpoint.",
            )
    return AirsmithError(ErrorKind.INTERNAL, f"{type(failure).__name__}: {failure}", "See the traceback in the log.")


def scratch_folder() -> str:
    """Folder for a stage's temporary files."""
    return os.environ.get("AIRSMITH_SCRATCH") or tempfile.gettempdir()


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    """An exception and its chain of causes: libraries wrap the exceptions that they catch."""
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


def _is_disk_full(failure: BaseException) -> bool:
    if isinstance(failure, OSError) and failure.errno is not None:
        return failure.errno in _DISK_FULL
    rust = _RUST_OS_ERROR.search(str(failure))
    # datasets checks the free space and raises an OSError without an errno.
    return (rust is not None and int(rust[1]) in _DISK_FULL) or "not enough disk space" in str(failure).lower()


def _is_from_torch(failure: BaseException) -> bool:
    """Whether torch has raised the exception; gloo's errors are plain RuntimeErrors."""
    return type(failure) is RuntimeError or type(failure).__module__.startswith("torch")


def _message(failure: BaseException) -> str:
    return (str(failure) or type(failure).__name__).rstrip(".")


def _stop(signum: int, frame: FrameType | None) -> None:
    # A second SIGTERM must not interrupt the cleanup after the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise StopRequested


def _report(error: AirsmithError) -> None:
    line = error.to_json_line()
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file is not None:
        # One of several processes: torchrun reads each error file, and the launcher reports the first failure. The
        # format is that of `torch.distributed.elastic.multiprocessing.errors.ErrorHandler`.
        Path(error_file).write_text(json.dumps({"message": {"message": line, "extraInfo": {"timestamp": "0"}}}))
        return
    logging.shutdown()
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    if TERMINATION_LOG.exists():
        try:
            TERMINATION_LOG.write_text(line)
        except OSError as failure:
            print(f"WARNING: Failed to write {TERMINATION_LOG}: {failure}", file=sys.stdout, flush=True)
