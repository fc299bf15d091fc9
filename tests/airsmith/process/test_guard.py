"""The guard: a command never outlives its parent, and always has its grace period."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from airsmith.process import guard

WAIT_FOREVER = "import signal, sys; print('ready', flush=True); signal.pause()"
DEADLINE_SECONDS = 20


@pytest.fixture
def guarded() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str, grace_seconds: float = 10) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            _guard_command(code, grace_seconds), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.communicate(timeout=DEADLINE_SECONDS)


def test_output_and_exit_code_are_passed_through(guarded):
    process = guarded("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert sorted(process.stdout.read().split()) == ["err", "out"]
    assert process.wait(DEADLINE_SECONDS) == 3


def test_death_by_a_signal_becomes_exit_code_128_plus_its_number(guarded):
    process = guarded("import os; os.kill(os.getpid(), 9)")
    assert process.wait(DEADLINE_SECONDS) == 128 + signal.SIGKILL


def test_closing_stdin_sends_sigterm_first(guarded):
    process = guarded(
        """
        import signal, sys
        def stop(*_):
            print("checkpoint published", flush=True)
            sys.exit(7)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        signal.pause()
        """
    )
    assert process.stdout.readline() == "ready\n"
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert output == "checkpoint published\n"
    assert process.returncode == 7


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace_period(guarded):
    process = guarded(
        f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT_FOREVER}", grace_seconds=0.2
    )
    assert process.stdout.readline() == "ready\n"
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 128 + signal.SIGKILL


def test_children_of_the_command_are_killed_when_it_exits(guarded):
    process = guarded(
        f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {WAIT_FOREVER!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        """
    )
    grandchild = psutil.Process(int(process.stdout.readline()))
    assert process.wait(DEADLINE_SECONDS) == 0
    assert _exits(grandchild)


def test_the_command_and_its_children_exit_if_the_parent_is_killed():
    code = f"""
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {WAIT_FOREVER!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(os.getpid(), child.pid, flush=True)
        child.wait()
        """
    parent_code = f"""
        import subprocess
        process = subprocess.Popen({_guard_command(code, 5)!r}, stdin=subprocess.PIPE, start_new_session=True)
        process.wait()
        """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent_code)], stdout=subprocess.PIPE, text=True)
    processes = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    assert all(_exits(process) for process in processes)
    parent.communicate(timeout=DEADLINE_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux notifies a process of its parent's death")
def test_the_command_exits_if_the_guard_is_killed(guarded):
    process = guarded("import os, signal; print(os.getpid(), flush=True); signal.pause()")
    command = psutil.Process(int(process.stdout.readline()))
    process.kill()
    assert _exits(command)


def test_the_command_can_finish_after_its_output_is_closed(guarded, tmp_path: Path):
    checkpoint = tmp_path / "checkpoint"
    process = guarded(
        f"""
        import pathlib, signal, sys
        def stop(*_):
            for _ in range(10_000):
                print("an unread line", flush=True)
            pathlib.Path({str(checkpoint)!r}).write_text("published")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        signal.pause()
        """
    )
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    process.stdin.close()
    process.wait(timeout=DEADLINE_SECONDS)
    assert checkpoint.read_text() == "published"
    process.stdin, process.stdout = None, None


def _guard_command(code: str, grace_seconds: float) -> list[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return [sys.executable, "-I", "-S", str(guard.__file__), str(grace_seconds), *command]


def _exits(process: psutil.Process) -> bool:
    """Whether the process exits in time. It is the child of another process, so a zombie counts as exited."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
