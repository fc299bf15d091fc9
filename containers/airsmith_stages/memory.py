"""malloc's arenas, and the kernel's count of out-of-memory kills."""

from __future__ import annotations

import ctypes
from pathlib import Path

CGROUP_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
"""Memory events of the container (cgroup v2)."""
_M_ARENA_MAX = -8


def use_one_malloc_arena() -> None:
    """Make all threads that start later share one malloc arena; for stages that stream bytes between threads.

    glibc gives each thread its own arena (mallopt(3), M_ARENA_MAX). If one thread reads blocks that another writes and
    frees, each arena keeps its peak memory, which costs about half as much memory again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def out_of_memory_kills() -> int:
    """Number of processes in this container that the kernel killed for lack of memory; 0 if unknown."""
    try:
        lines = CGROUP_MEMORY_EVENTS.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
