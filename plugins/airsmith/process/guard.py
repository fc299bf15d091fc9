"""Run a command that must not outlive its parent process: `python guard.py GRACE_SECONDS COMMAND…`.

The command runs in a new session, and the guard forwards its output. When the guard's standard input is closed, because
the parent requests a stop or has died, the command gets SIGTERM; after the grace period, or when the command exits, the
rest of its process group gets SIGKILL. The guard keeps reading the output after its reader has gone, so that a training
can publish its last checkpoint. It exits with the command's code, or with 128 plus the number of the fatal signal.

The script uses the standard library only: it starts in milliseconds and needs no installed package.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of Linux's prctl."""

CONTROL, OUTPUT = 0, 1
CHUNK_BYTES = 65_536


def main(arguments: Sequence[str]) -> int:
    """Run the command until it exits or is stopped.

    :returns: its exit code, or 128 plus the number of the signal that killed it.
    """
    signals = _signal_descriptor()
    process = subprocess.Popen(
        arguments[1:],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=kill_with_parent,
    )
    _wait(process, signals, grace_seconds=float(arguments[0]))
    _kill_group(process)
    _forward_remaining(process)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _signal_descriptor() -> int:
    """A file descriptor that yields the number of every signal received."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reading


def kill_with_parent() -> None:
    """Make the kernel kill this process when its parent dies. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], signals: int, grace_seconds: float) -> None:
    """Forward the output until the command exits, by itself or because it was stopped."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    sources = [CONTROL, output, signals]
    deadline: float | None = None
    while process.poll() is None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            _kill_group(process)
            process.wait()
            return
        ready, _, _ = select.select(sources, [], [], left)
        stop_requested = False
        for source in ready:
            data = os.read(source, CHUNK_BYTES)
            if source == output:
                _forward(data)
            if source == signals:
                stop_requested |= any(number != signal.SIGCHLD for number in data)
            if source == CONTROL:
                stop_requested |= not data
            if not data:
                sources.remove(source)
        if stop_requested and deadline is None:
            # To the command alone, as a kubelet does: a training's data workers must live until its step is finished.
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds


def _forward_remaining(process: subprocess.Popen[bytes]) -> None:
    """Forward what the command wrote before it exited; never wait for another process that holds its output open."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        while data := os.read(process.stdout.fileno(), CHUNK_BYTES):
            _forward(data)
    except BlockingIOError:
        return


def _forward(data: bytes) -> None:
    try:
        while data:
            data = data[os.write(OUTPUT, data) :]
    except BrokenPipeError:
        return


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
