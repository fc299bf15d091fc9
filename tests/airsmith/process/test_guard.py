"""The guard: a command never outlives who asked for it, and always gets its grace."""

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

ENDLESS = "import signal, sys; print('ready', flush=True); signal.pause()"
WAIT_SECONDS = 20


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
        process.communicate(timeout=WAIT_SECONDS)


def test_output_and_exit_code_are_the_commands(guarded):
    process = guarded("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert sorted(process.stdout.read().split()) == ["err", "out"]
    assert process.wait(WAIT_SECONDS) == 3


def test_a_signal_becomes_128_plus_its_number(guarded):
    process = guarded("import os; os.kill(os.getpid(), 9)")
    assert process.wait(WAIT_SECONDS) == 128 + signal.SIGKILL


def test_closing_the_input_asks_first(guarded):
    process = guarded(
        """
        import signal, sys
        def end(*_):
            print("checkpoint published", flush=True)
            sys.exit(7)
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        signal.pause()
        """
    )
    assert process.stdout.readline() == "ready\n"
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert output == "checkpoint published\n"
    assert process.returncode == 7


def test_who_ignores_the_request_is_killed_after_the_grace(guarded):
    process = guarded(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {ENDLESS}", grace_seconds=0.2)
    assert process.stdout.readline() == "ready\n"
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 128 + signal.SIGKILL


def test_what_the_command_started_ends_with_it(guarded):
    process = guarded(
        f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {ENDLESS!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        """
    )
    grandchild = psutil.Process(int(process.stdout.readline()))
    assert process.wait(WAIT_SECONDS) == 0
    assert _ended(grandchild)


def test_the_parents_sudden_death_ends_command_and_grandchildren():
    code = f"""
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {ENDLESS!r}], stdout=subprocess.PIPE)
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
    victims = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    assert all(_ended(victim) for victim in victims)
    parent.communicate(timeout=WAIT_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_the_guards_own_sudden_death_ends_the_command(guarded):
    process = guarded("import os, signal; print(os.getpid(), flush=True); signal.pause()")
    command = psutil.Process(int(process.stdout.readline()))
    process.kill()
    assert _ended(command)


def test_the_command_finishes_in_peace_when_nobody_listens_any_more(guarded, tmp_path: Path):
    checkpoint = tmp_path / "checkpoint"
    process = guarded(
        f"""
        import pathlib, signal, sys
        def end(*_):
            for _ in range(10_000):
                print("a line that nobody reads", flush=True)
            pathlib.Path({str(checkpoint)!r}).write_text("published")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        signal.pause()
        """
    )
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    process.stdin.close()
    process.wait(timeout=WAIT_SECONDS)
    assert checkpoint.read_text() == "published"
    process.stdin, process.stdout = None, None


def _guard_command(code: str, grace_seconds: float) -> list[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return [sys.executable, "-I", "-S", str(guard.__file__), str(grace_seconds), *command]


def _ended(process: psutil.Process) -> bool:
    """Whether the process ends in time. It is somebody else's child, so its zombie counts as ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
