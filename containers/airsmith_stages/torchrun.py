"""Runs torchrun on this node and raises the error of the process that failed first.

`python -m airsmith_stages.torchrun <torchrun's arguments>` runs it as a program, for launches that require another
environment than their stage's, or a tool that wraps them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.guard import kill_with_parent
from airsmith_stages.failures import exit_code_of
from airsmith_stages.stage_process import configure_logging, exit_process

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

SHUTDOWN_SECONDS = 3600
"""Time that processes have after SIGTERM to publish a checkpoint; the sender of the signal may allow less."""
_LAUNCHER_PID = "AIRSMITH_LAUNCHER"
"""Variable of the workers: process id of their torchrun."""


def main() -> None:
    """Run torchrun with the arguments of the command line, and exit with the code of its processes."""
    exit_with_parent()
    configure_logging()
    exit_process(exit_code_of(lambda: run_torchrun(sys.argv[1:])))


def run_torchrun(arguments: Sequence[str]) -> None:
    """Run the processes of a stage on this node and wait until they exit.

    :param arguments: torchrun's arguments, including its log folder and the stage's name.
    :raises AirsmithError: the error of the process that failed first, or one derived from its exit code.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as torchrun

    # A variable instead of the argument of that name: torch 2.8, which Neuron's libraries are pinned to, does not
    # support the argument (https://github.com/pytorch/pytorch/pull/172596).
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_SECONDS)
    os.environ[_LAUNCHER_PID] = str(os.getpid())
    options = parse_args(list(arguments))  # type: ignore[no-untyped-call]
    try:
        torchrun(options)
    except ChildFailedError as failed:
        raise _first_failure(failed) from None
    except SignalException:
        raise _interruption(options.training_script_args[0], Path(options.log_dir)) from None


def exit_with_parent() -> None:
    """Have the kernel kill this process when its parent exits: torchrun's workers run in sessions of their own."""
    kill_with_parent()
    if os.environ.get(_LAUNCHER_PID) not in (None, str(os.getppid())):  # The parent exited before the call.
        os._exit(1)


def read_error_file(path: Path) -> AirsmithError | None:
    """The error in a process's error file; None if it contains none."""
    try:
        return _reported_error(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _first_failure(failed: ChildFailedError) -> AirsmithError:
    """The failure that caused the others: a process that loses a peer also fails, with a less specific error."""
    by_weight = sorted(failed.failures.items(), key=lambda failure: (_weight(failure[1]), failure[0]))
    rank, failure = by_weight[0]
    return _reported_error(failure.error_file_data) or _exit_code_error(rank, failure)


def _weight(failure: ProcessFailure) -> int:
    """Sort key: the more specific the failure, the lower."""
    error = _reported_error(failure.error_file_data)
    if error is None:
        return 1 if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM else 3
    return {ErrorKind.KILLED: 2, ErrorKind.INTERNAL: 2, ErrorKind.INTERRUPTED: 4}.get(error.kind, 0)


def _reported_error(error_file: Mapping[str, Any]) -> AirsmithError | None:
    try:
        return AirsmithError.from_json_line(error_file["message"]["message"])
    except (KeyError, TypeError):
        return None


def _exit_code_error(rank: int, failure: ProcessFailure) -> AirsmithError:
    if failure.exitcode == -signal.SIGKILL:
        return AirsmithError(
            ErrorKind.KILLED,
            f"Process {rank} of the training was killed (SIGKILL), by a user or because memory ran out.",
            "Run it again: it resumes from its newest checkpoint. If it happens again, increase its memory.",
        )
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"Process {rank} of the training exited with code {failure.exitcode} and reported no error.",
        "See the last lines of the log.",
    )


def _interruption(stage: str, logs: Path) -> AirsmithError:
    """The error that the processes reported after SIGTERM; of several, the one with the longest message."""
    errors = (read_error_file(path) for path in sorted(logs.rglob("error.json")))
    interrupted = [error for error in errors if error is not None and error.kind is ErrorKind.INTERRUPTED]
    longest = max(interrupted, key=lambda error: len(error.message), default=None)
    return longest or AirsmithError(ErrorKind.INTERRUPTED, f"Stage {stage} was stopped by SIGTERM.", "Run it again.")


if __name__ == "__main__":
    main()
