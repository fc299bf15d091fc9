"""Several processes for one stage: torchrun starts them on each node.

It runs in the process that was asked for the stage, or apart from it: as a command that gets an environment of its own,
and around which a tool may stand. Both are given the same arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import TRAINING
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.devices import get_device
from airsmith_stages.devices.cpu import usable_cores
from airsmith_stages.failures import StopRequested, scratch_folder
from airsmith_stages.stage_context import StageContext
from airsmith_stages.torchrun import die_with_the_parent, error_in, run_torchrun

log = logging.getLogger("airsmith")

WORKER = "airsmith_stages.worker"
NODE_RANK = "PET_NODE_RANK"
"""torchrun's own variable for the number of this node; PET_MASTER_ADDR and PET_MASTER_PORT name the first one's."""
CHUNK_BYTES = 65_536


class Launcher(Protocol):
    """A module that starts the processes of a stage on this node in a way of its own."""

    def launch(self, context: StageContext) -> None:
        """Run the processes to their end."""


@dataclass(frozen=True)
class LaunchResult:
    """How a launch apart ended.

    :ivar code: its exit code, below 0 the signal that ended it.
    :ivar error: what its processes said; None where they said nothing.
    :ivar log: what it printed.
    """

    code: int
    error: AirsmithError | None
    log: Path


def is_leader_node() -> bool:
    """Whether this node's process speaks for the stage; the others' only take part."""
    return int(os.environ.get(NODE_RANK, "0")) == 0


def is_launched(stage: str, spec: RunSpec) -> bool:
    """Whether a stage is the work of processes that are started for it."""
    if stage not in TRAINING:
        return False
    return spec.plan.parallel.processes_per_node * spec.recipe.backend.nodes > 1 or bool(_launcher(spec))


def launch(context: StageContext) -> None:
    """Run a stage's processes on this node to their end.

    :raises AirsmithError: what the first of them that failed has said, or what its death says.
    """
    module = _launcher(context.spec)
    if module:
        launcher: Launcher = importlib.import_module(module)
        launcher.launch(context)
        return
    # torchrun gives each process one thread where nobody says otherwise.
    threads = max(1, usable_cores() // context.spec.plan.parallel.processes_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory(prefix="airsmith-torchrun-", dir=scratch_folder()) as logs:
        run_torchrun(torchrun_arguments(context.contract.name, context.run, context.spec, logs))


def torchrun_arguments(stage: str, run: Run, spec: RunSpec, logs: str) -> list[str]:
    """torchrun's command line; what tells one node from another it reads from the environment."""
    nodes = spec.recipe.backend.nodes
    where = ["--standalone"] if nodes == 1 else ["--nnodes", str(nodes), "--rdzv-backend", "static"]
    return [
        *where,
        "--nproc-per-node", str(spec.plan.parallel.processes_per_node),
        "--max-restarts", "0",
        "--monitor-interval", "0.5",
        "--log-dir", logs,
        "--module", WORKER, stage, run.uri,
    ]  # fmt: skip


def launch_command(stage: str, run: Run, spec: RunSpec, logs: str) -> list[str]:
    """The command that runs a stage's processes on this node; a tool may be put in front of it."""
    return [sys.executable, "-m", "airsmith_stages.torchrun", *torchrun_arguments(stage, run, spec, logs)]


def launch_in_subprocess(
    context: StageContext, environment: Mapping[str, str], tool: Sequence[str] = (), *, may_finish: bool
) -> LaunchResult:
    """Run a stage's processes on this node to their end, as a command of their own whose output is passed on.

    :param environment: what its environment has beside this one's.
    :param tool: the command that stands around it.
    :param may_finish: whether processes that are told to stop finish what they are at; else all end at once.
    :raises StopRequested: where this process was told to stop and the others had nothing to say about it.
    """
    folder = context.scratch / "launch"
    folder.mkdir()
    command = [*tool, *launch_command(context.contract.name, context.run, context.spec, str(folder))]
    log.info("Launching %s", shlex.join(command))
    said, output = folder / "error.json", folder / "output.log"
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment, "TORCHELASTIC_ERROR_FILE": str(said)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_the_parent,
    )
    try:
        _forward(process, output)
    except StopRequested as stop:
        if not may_finish:
            raise
        _tell_to_stop(process)
        _forward(process, output)
        raise error_in(said) or stop from None
    finally:
        _kill_group(process)
    return LaunchResult(process.returncode, error_in(said), output)


def exit_code_error(stage: str, code: int) -> AirsmithError:
    """What to say of a launch that ended without a word."""
    if code < 0:
        return AirsmithError(
            ErrorKind.KILLED,
            f"The launch of {stage} was ended by {signal.Signals(-code).name}.",
            "Run it again. Where it happens again, give it more memory.",
        )
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"The launch of {stage} ended with exit code {code} and did not say why.",
        "See the last lines of the log.",
    )


def _launcher(spec: RunSpec) -> str:
    return get_device(spec.recipe.backend.name).launcher


def _forward(process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Show what a command prints as it comes, and keep it, until the command ends."""
    assert process.stdout is not None
    with log_file.open("ab") as file:
        while data := os.read(process.stdout.fileno(), CHUNK_BYTES):
            file.write(data)
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
    process.wait()


def _tell_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Tell the processes themselves: torchrun would kill them after a time, and of torch 2.8 it is 30 seconds."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    workers = [child.pid for child in children if WORKER in child.cmdline()]
    for pid in workers or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a command and of all that it started; those of torchrun die with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
