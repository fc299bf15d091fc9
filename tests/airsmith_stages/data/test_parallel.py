"""`map_in_order` keeps the order of results and errors, and leaves no worker behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.parallel import map_in_order


def slow_if_even(number: int) -> int:
    time.sleep(0.02 * (number % 2 == 0))
    return number * number


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_have_the_order_of_the_inputs(processes: int) -> None:
    assert list(map_in_order(slow_if_even, range(20), processes)) == [number * number for number in range(20)]


def test_inputs_are_consumed_only_slightly_ahead() -> None:
    taken = []

    def inputs() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with closing(map_in_order(slow_if_even, inputs(), 2)) as results:
        assert [next(results) for _ in range(10)] == [number * number for number in range(10)]
    assert len(taken) <= 16


def refuse_seven(number: int) -> int:
    if number == 7:
        raise AirsmithError(ErrorKind.BAD_DATA, "Seven is invalid.", "Use another number.")
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_unchanged_and_in_order(processes: int) -> None:
    received = []

    def take_all() -> None:
        for number in map_in_order(refuse_seven, range(100), processes):
            received.append(number)

    with pytest.raises(AirsmithError) as refused:
        take_all()
    assert received == list(range(7))
    assert (refused.value.kind, refused.value.message) == (ErrorKind.BAD_DATA, "Seven is invalid.")
    assert multiprocessing.active_children() == []


def kill_self_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(AirsmithError) as refused:
        list(map_in_order(kill_self_at_three, range(10), 2))
    assert refused.value.kind is ErrorKind.OUT_OF_MEMORY


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_killed_while_idle_does_not_keep_the_others_running(which: int) -> None:
    """It can hold the lock of the queue that all workers read."""

    def inputs() -> Iterator[int]:
        yield from range(6)
        wait_until_idle()
        os.kill(sorted(child.pid or 0 for child in multiprocessing.active_children())[which], signal.SIGKILL)
        yield from count()  # The other worker can do much before the kill is noticed.

    with pytest.raises(AirsmithError) as refused:
        deque(map_in_order(abs, inputs(), 2), maxlen=0)
    assert refused.value.kind is ErrorKind.OUT_OF_MEMORY
    assert multiprocessing.active_children() == []


def wait_until_idle() -> None:
    """Wait until all children of this process sleep in 20 consecutive checks."""
    idle_checks = 0
    while idle_checks < 20:
        stats = [Path(f"/proc/{child.pid}/stat").read_text() for child in multiprocessing.active_children()]
        states = {stat.rpartition(")")[2].split()[0] for stat in stats}
        idle_checks = idle_checks + 1 if states == {"S"} else 0
        time.sleep(0.01)


def test_workers_exit_with_their_parent_process() -> None:
    """However the parent exits, its closed end of a pipe reaches the workers."""
    program = dedent("""
        import os, signal, time
        from airsmith_stages.data.parallel import map_in_order

        def pid_once(number):
            if number > 1:
                time.sleep(600)
            return os.getpid()

        results = map_in_order(pid_once, range(9), 2)
        print(next(results), next(results), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    # The output pipe closes only after the killed parent and all of its workers have exited.
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == -signal.SIGKILL
    assert len(result.stdout.split()) == 2
