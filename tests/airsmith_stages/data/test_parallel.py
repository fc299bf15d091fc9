"""Several processes: the order of the things, errors in their turn, and nobody left behind."""

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

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.data.parallel import map_in_order


def late_when_even(number: int) -> int:
    time.sleep(0.02 * (number % 2 == 0))
    return number * number


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_things(processes: int) -> None:
    assert list(map_in_order(late_when_even, range(20), processes)) == [number * number for number in range(20)]


def test_few_things_are_taken_before_their_time() -> None:
    taken = []

    def things() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with closing(map_in_order(late_when_even, things(), 2)) as results:
        assert [next(results) for _ in range(10)] == [number * number for number in range(10)]
    assert len(taken) <= 16


def refuse_seven(number: int) -> int:
    if number == 7:
        raise AirsmithError(ErrorKind.BAD_DATA, "Seven is not wanted.", "Take another.")
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_in_its_turn_as_it_was_raised(processes: int) -> None:
    came = []

    def take_all() -> None:
        for number in map_in_order(refuse_seven, range(100), processes):
            came.append(number)

    with pytest.raises(AirsmithError) as refused:
        take_all()
    assert came == list(range(7))
    assert (refused.value.kind, refused.value.message) == (ErrorKind.BAD_DATA, "Seven is not wanted.")
    assert multiprocessing.active_children() == []


def end_itself(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_told_and_never_waited_for() -> None:
    with pytest.raises(AirsmithError) as refused:
        list(map_in_order(end_itself, range(10), 2))
    assert refused.value.kind is ErrorKind.OUT_OF_MEMORY


@pytest.mark.parametrize("which", [0, 1])
def test_one_killed_while_it_waits_for_work_does_not_stop_the_others_from_ending(which: int) -> None:
    """It may hold the lock of the queue that all of them take their work from."""

    def things() -> Iterator[int]:
        yield from range(6)
        wait_until_idle()
        os.kill(sorted(child.pid or 0 for child in multiprocessing.active_children())[which], signal.SIGKILL)
        yield from count()  # The other one may do much before it is noticed.

    with pytest.raises(AirsmithError) as refused:
        deque(map_in_order(abs, things(), 2), maxlen=0)
    assert refused.value.kind is ErrorKind.OUT_OF_MEMORY
    assert multiprocessing.active_children() == []


def wait_until_idle() -> None:
    """Until all children of this process are seen asleep, time and again."""
    asleep = 0
    while asleep < 20:
        stats = [Path(f"/proc/{child.pid}/stat").read_text() for child in multiprocessing.active_children()]
        states = {stat.rpartition(")")[2].split()[0] for stat in stats}
        asleep = asleep + 1 if states == {"S"} else 0
        time.sleep(0.01)


def test_they_end_with_the_process_that_they_work_for() -> None:
    """However it ends: their end of a pipe is the only sign of it that they cannot miss."""
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
    # The pipe of its output ends when nobody is left who holds it: the one who is killed, or those whom it began.
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == -signal.SIGKILL
    assert len(result.stdout.split()) == 2
