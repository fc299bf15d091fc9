"""torchrun on this node, heard out: whoever of its processes failed first says why the stage did.

`python -m airsmith_stages.torchrun <torchrun's own arguments>` runs it as a program of its own, for launches that need
another environment than their stage's, or a tool around them.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.failures import exit_code_of
from airsmith_stages.stage_process import configure_logging, exit_process

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

SHUTDOWN_SECONDS = 3600
"""How long processes that were told to stop may take to publish what they have; whoever told it may wait less long."""
_LAUNCHER = "AIRSMITH_LAUNCHER"
"""Variable that tells the processes which torchrun has started them."""
_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of Linux's prctl."""


def main() -> None:
    """Run torchrun with the arguments of the command line, and end with what its processes ended with."""
    die_with_the_parent()
    configure_logging()
    exit_process(exit_code_of(lambda: run_torchrun(sys.argv[1:])))


def run_torchrun(arguments: Sequence[str]) -> None:
    """Run the processes of a stage on this node to their end.

    :param arguments: torchrun's; the folder of its logs and the stage's name are among them.
    :raises AirsmithError: what the first of the processes that failed has said, or what its death says.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as torchrun

    # A variable, and not the argument of that name: torch 2.8, which Neuron's libraries are pinned to, does not know
    # it yet (https://github.com/pytorch/pytorch/pull/172596).
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_SECONDS)
    os.environ[_LAUNCHER] = str(os.getpid())
    options = parse_args(list(arguments))  # type: ignore[no-untyped-call]
    try:
        torchrun(options)
    except ChildFailedError as failed:
        raise _first_failure(failed) from None
    except SignalException:
        raise _interruption(options.training_script_args[0], Path(options.log_dir)) from None


def die_with_the_parent() -> None:
    """torchrun gives its processes a session of their own: without this they would outlive it where it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.environ.get(_LAUNCHER) not in (None, str(os.getppid())):  # It was killed before this was asked for.
        os._exit(1)


def error_in(path: Path) -> AirsmithError | None:
    """The error that a process has left in its file; None where it left none."""
    try:
        return _said(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _first_failure(failed: ChildFailedError) -> AirsmithError:
    """The failure that explains the others: who loses a partner fails as well, and says less."""
    ranked = sorted(failed.failures.items(), key=lambda failure: (_weight(failure[1]), failure[0]))
    rank, failure = ranked[0]
    return _said(failure.error_file_data) or _death(rank, failure)


def _weight(failure: ProcessFailure) -> int:
    said = _said(failure.error_file_data)
    if said is None:
        return 1 if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM else 3
    return {ErrorKind.KILLED: 2, ErrorKind.INTERNAL: 2, ErrorKind.INTERRUPTED: 4}.get(said.kind, 0)


def _said(error_file: Mapping[str, Any]) -> AirsmithError | None:
    try:
        return AirsmithError.from_json_line(error_file["message"]["message"])
    except (KeyError, TypeError):
        return None


def _death(rank: int, failure: ProcessFailure) -> AirsmithError:
    if failure.exitcode == -signal.SIGKILL:
        return AirsmithError(
            ErrorKind.KILLED,
            f"Process {rank} of the training was killed (SIGKILL), by somebody or because memory ran out.",
            "Run it again: it goes on from its newest checkpoint. Where it happens again, give it more memory.",
        )
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"Process {rank} of the training ended with exit code {failure.exitcode} and did not say why.",
        "See the last lines of the log.",
    )


def _interruption(stage: str, logs: Path) -> AirsmithError:
    """What the processes said when they were told to stop."""
    said = (error_in(path) for path in sorted(logs.rglob("error.json")))
    interrupted = [error for error in said if error is not None and error.kind is ErrorKind.INTERRUPTED]
    longest = max(interrupted, key=lambda error: len(error.message), default=None)
    return longest or AirsmithError(
        ErrorKind.INTERRUPTED, f"Stage {stage} was told to stop (SIGTERM).", "Run it again."
    )


if __name__ == "__main__":
    main()
