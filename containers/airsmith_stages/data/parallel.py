"""Map a function over items in several processes, with results in the order of the items."""

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
"""Each process uses about 100 MB in addition to the shared memory, and a single process combines their results."""

T = TypeVar("T")
R = TypeVar("R")

_work: Callable[[Any], Any]


def process_count() -> int:
    """Number of processes for CPU-bound work."""
    return min(usable_cores(), MAX_PROCESSES)


def map_in_order(work: Callable[[T], R], items: Iterable[T], processes: int) -> Generator[R, None, None]:
    """Yield the results in order while worker processes compute the next ones.

    The processes are forks: they share the function's data, and only items and results are sent. Few results are
    pending at any time. An exception of the function is raised at its item's position. The processes exit when the
    iterator is closed or this process exits, even if it is killed.

    :raises AirsmithError: `out_of_memory` if one of the processes is killed.
    """
    if processes == 1:
        yield from map(work, items)
        return
    lifeline = os.pipe()
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("fork"), initializer=_begin, initargs=(work, lifeline)
    )
    try:
        remaining = iter(items)
        waiting: deque[Future[R]] = deque(pool.submit(_do, item) for item in islice(remaining, 3 * processes))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_do, item) for item in islice(remaining, 1))
    except BrokenProcessPool as error:
        raise AirsmithError(
            ErrorKind.OUT_OF_MEMORY,
            f"One of {processes} worker processes was killed, most likely because the container ran out of memory.",
            "Give the stage more memory.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        for end in lifeline:
            os.close(end)


def _begin(work: Callable[[Any], Any], lifeline: tuple[int, int]) -> None:
    global _work
    _work = work
    gc.freeze()  # Otherwise each collection writes to shared objects and copies their pages.
    # The pool sends SIGTERM to the remaining processes after one was killed; Ctrl-C is for the parent process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    read_end, write_end = lifeline
    os.close(write_end)
    threading.Thread(target=_exit_with_parent, args=(read_end,), daemon=True).start()


def _exit_with_parent(read_end: int) -> None:
    """Nothing is ever written to the pipe; the read returns when the last process with its write end exits."""
    os.read(read_end, 1)
    os._exit(1)


def _do(item: Any) -> Any:
    return _work(item)
