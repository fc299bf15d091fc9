"""Work on many things in several processes, with the results in the order of the things."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.devices.cpu import usable_cores

MAX_PROCESSES = 16
"""Each takes about 100 MB beside what it shares with this one, and one process has to put together what they make."""

T = TypeVar("T")
R = TypeVar("R")

_work: Callable[[Any], Any]


def process_count() -> int:
    """Processes for work that keeps a core busy."""
    return min(usable_cores(), MAX_PROCESSES)


def map_in_order(work: Callable[[T], R], things: Iterable[T], processes: int) -> Generator[R, None, None]:
    """The results of a function, one after the other, while the next ones are being made.

    The processes are forks: they share what the function holds, and nothing but things and results is sent. Few results
    wait at any time. An exception of the function is raised in its turn. Leaving the iterator ends the processes, and
    so does the end of this one, however it comes.

    :raises AirsmithError: `out_of_memory` where one of them is killed.
    """
    if processes == 1:
        yield from map(work, things)
        return
    lifeline = os.pipe()
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("fork"), initializer=_begin, initargs=(work, lifeline)
    )
    try:
        remaining = iter(things)
        waiting: deque[Future[R]] = deque(pool.submit(_do, thing) for thing in islice(remaining, 3 * processes))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_do, thing) for thing in islice(remaining, 1))
    except BrokenProcessPool as error:
        raise AirsmithError(
            ErrorKind.OUT_OF_MEMORY,
            f"One of {processes} processes was killed, most likely because the memory was full.",
            "Give the stage more memory.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        for end in lifeline:
            os.close(end)


def _begin(work: Callable[[Any], Any], lifeline: tuple[int, int]) -> None:
    global _work
    _work = work
    gc.freeze()  # Every collection would else write into objects that are shared, and so copy their pages.
    # By SIGTERM the pool ends those that are left where one was killed; Ctrl-C is for the process that they work for.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    read_end, write_end = lifeline
    os.close(write_end)
    threading.Thread(target=_end_with_parent, args=(read_end,), daemon=True).start()


def _end_with_parent(read_end: int) -> None:
    """Nothing is ever written into the pipe: its reading ends when nobody is left who could."""
    os.read(read_end, 1)
    os._exit(1)


def _do(thing: Any) -> Any:
    return _work(thing)
