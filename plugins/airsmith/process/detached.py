"""Processes that outlive their parent, identified by pid and start time so that a reused pid is never signaled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from airsmith.registry import ServerProcess

_START_TIME_TOLERANCE_SECONDS = 0.05


def start_detached(
    command: Sequence[str], *, log: Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> ServerProcess:
    """Start a process that continues after its parent exits, with its output in a log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
        )
    return ServerProcess(pid=process.pid, started_at=psutil.Process(process.pid).create_time(), log=str(log))


def is_alive(process: ServerProcess) -> bool:
    """Whether this process is still running."""
    found = _find(process)
    return found is not None and found.status() != psutil.STATUS_ZOMBIE


def stop_group(process: ServerProcess, *, first_signal: int = signal.SIGTERM, grace_seconds: float = 30) -> None:
    """Signal the process to stop, and kill the rest of its group after the grace period."""
    found = _find(process)
    if found is None:
        return
    members = [found, *found.children(recursive=True)]
    found.send_signal(first_signal)
    _, left = psutil.wait_procs(members, timeout=grace_seconds)
    if left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        psutil.wait_procs(left, timeout=grace_seconds)


def _find(process: ServerProcess) -> psutil.Process | None:
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.started_at) < _START_TIME_TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return None
    return found if same else None
