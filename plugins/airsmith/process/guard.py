"""Runs a command that must not outlive who asked for it: `python guard.py GRACE_SECONDS COMMAND…`.

The command gets a session of its own, and its output is passed on. Once the guard's standard input is closed, because
the parent wants an end or died, however suddenly, the command gets SIGTERM; after the grace, or when the command itself
has ended, what is left of its process group gets SIGKILL. The output is read even when nobody listens any more, so that
a training may publish its last checkpoint in peace. The guard exits with the command's code, or with 128 plus the
number of the signal that ended it.

Run as a script on the standard library alone: it starts in milliseconds and needs nothing installed.
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
    """Run the command to its end, or end it.

    :returns: its exit code, or 128 plus the number of the signal that ended it.
    """
    signals = _signals_as_a_file()
    process = subprocess.Popen(
        arguments[1:],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_the_guard,
    )
    _wait(process, signals, grace_seconds=float(arguments[0]))
    _kill_group(process)
    _pass_on_the_rest(process)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _signals_as_a_file() -> int:
    """A descriptor that yields the number of every signal that arrives."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reading


def _die_with_the_guard() -> None:
    """Have the kernel kill the command should the guard itself be killed; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], signals: int, grace_seconds: float) -> None:
    """Pass the output on until the command itself has ended, by itself or because it was told to."""
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
        end_wanted = False
        for source in ready:
            data = os.read(source, CHUNK_BYTES)
            if source == output:
                _pass_on(data)
            if source == signals:
                end_wanted |= any(number != signal.SIGCHLD for number in data)
            if source == CONTROL:
                end_wanted |= not data
            if not data:
                sources.remove(source)
        if end_wanted and deadline is None:
            # As a kubelet does: a training's data workers must live until it has finished its step.
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds


def _pass_on_the_rest(process: subprocess.Popen[bytes]) -> None:
    """Read what the command wrote before its end; never wait for a stranger that holds its output open."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        while data := os.read(process.stdout.fileno(), CHUNK_BYTES):
            _pass_on(data)
    except BlockingIOError:
        return


def _pass_on(data: bytes) -> None:
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
