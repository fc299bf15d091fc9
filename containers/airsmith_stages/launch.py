"""Launches several processes for one stage: torchrun starts them on each node.

torchrun runs in this process or in a subprocess with an environment of its own, which another tool may wrap. Both get
the same arguments.
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
from airsmith_stages.torchrun import exit_with_parent, read_error_file, run_torchrun

log = logging.getLogger("airsmith")

WORKER = "airsmith_stages.worker"
NODE_RANK = "PET_NODE_RANK"
"""torchrun's variable for the rank of this node; PET_MASTER_ADDR and PET_MASTER_PORT are the address of node rank 0."""
CHUNK_BYTES = 65_536


class Launcher(Protocol):
    """A module that starts the processes of a stage on this node."""

    def launch(self, context: StageContext) -> None:
        """Run the processes and wait until they exit."""


@dataclass(frozen=True)
class LaunchResult:
    """The result of a launch in a subprocess.

    :ivar exit_code: of the subprocess; negative for a signal.
    :ivar error: the error that its processes reported; None if they reported none.
    :ivar log: file of its output.
    """

    exit_code: int
    error: AirsmithError | None
    log: Path


def is_leader_node() -> bool:
    """Whether this node records the stage; the others only run processes."""
    return int(os.environ.get(NODE_RANK, "0")) == 0


def is_launched(stage: str, spec: RunSpec) -> bool:
    """Whether a stage runs in launched processes."""
    if stage not in TRAINING:
        return False
    return spec.plan.parallel.processes_per_node * spec.recipe.backend.nodes > 1 or bool(_launcher(spec))


def launch(context: StageContext) -> None:
    """Run a stage's processes on this node and wait until they exit.

    :raises AirsmithError: the error of the process that failed first, or one derived from its exit code.
    """
    module = _launcher(context.spec)
    if module:
        launcher: Launcher = importlib.import_module(module)
        launcher.launch(context)
        return
    # By default, torchrun limits each process to one thread.
    threads = max(1, usable_cores() // context.spec.plan.parallel.processes_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory(prefix="airsmith-torchrun-", dir=scratch_folder()) as logs:
        run_torchrun(torchrun_arguments(context.contract.name, context.run, context.spec, logs))


def torchrun_arguments(stage: str, run: Run, spec: RunSpec, logs: str) -> list[str]:
    """torchrun's arguments. They are the same on all nodes; torchrun reads the node rank from the environment."""
    nodes = spec.recipe.backend.nodes
    rendezvous = ["--standalone"] if nodes == 1 else ["--nnodes", str(nodes), "--rdzv-backend", "static"]
    return [
        *rendezvous,
        "--nproc-per-node", str(spec.plan.parallel.processes_per_node),
        "--max-restarts", "0",
        "--monitor-interval", "0.5",
        "--log-dir", logs,
        "--module", WORKER, stage, run.uri,
    ]  # fmt: skip


def launch_command(stage: str, run: Run, spec: RunSpec, logs: str) -> list[str]:
    """The command that runs a stage's processes on this node; a tool may wrap it."""
    return [sys.executable, "-m", "airsmith_stages.torchrun", *torchrun_arguments(stage, run, spec, logs)]


def launch_in_subprocess(
    context: StageContext, environment: Mapping[str, str], tool: Sequence[str] = (), *, graceful_stop: bool
) -> LaunchResult:
    """Run a stage's processes on this node in a subprocess, and forward its output.

    :param environment: variables to add to those of this process.
    :param tool: the command that wraps the launch.
    :param graceful_stop: whether the processes may finish their step on SIGTERM; else all are killed immediately.
    :raises StopRequested: if this process received SIGTERM and its processes reported no error.
    """
    folder = context.scratch / "launch"
    folder.mkdir()
    command = [*tool, *launch_command(context.contract.name, context.run, context.spec, str(folder))]
    log.info("Launching %s", shlex.join(command))
    error_file, output = folder / "error.json", folder / "output.log"
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment, "TORCHELASTIC_ERROR_FILE": str(error_file)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=exit_with_parent,
    )
    try:
        _forward_output(process, output)
    except StopRequested as stop:
        if not graceful_stop:
            raise
        _send_stop(process)
        _forward_output(process, output)
        raise read_error_file(error_file) or stop from None
    finally:
        _kill_group(process)
    return LaunchResult(process.returncode, read_error_file(error_file), output)


def exit_code_error(stage: str, code: int) -> AirsmithError:
    """The error for a launch that failed without reporting one."""
    if code < 0:
        return AirsmithError(
            ErrorKind.KILLED,
            f"The launch of {stage} was killed by {signal.Signals(-code).name}.",
            "Run it again. If it happens again, increase its memory.",
        )
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"The launch of {stage} exited with code {code} and reported no error.",
        "See the last lines of the log.",
    )


def _launcher(spec: RunSpec) -> str:
    return get_device(spec.recipe.backend.name).launcher


def _forward_output(process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Write a subprocess's output to stderr and to a file until the subprocess exits."""
    assert process.stdout is not None
    with log_file.open("ab") as file:
        while data := os.read(process.stdout.fileno(), CHUNK_BYTES):
            file.write(data)
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
    process.wait()


def _send_stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the workers directly: torchrun kills them after a timeout, which is 30 seconds in torch 2.8."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    workers = [child.pid for child in children if WORKER in child.cmdline()]
    for pid in workers or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what remains of a subprocess's process group; torchrun's workers exit with torchrun."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
