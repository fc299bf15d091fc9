"""What malloc keeps of a process's memory, and whom the kernel has killed for it."""

from __future__ import annotations

import ctypes
from pathlib import Path

CGROUP_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
"""What has happened to the container's memory (cgroup v2)."""
_M_ARENA_MAX = -8


def use_one_malloc_arena() -> None:
    """Let all threads that begin from now on take memory from one arena; for stages that pass bytes on.

    glibc gives each thread an arena of its own (mallopt(3), M_ARENA_MAX). Where one thread reads blocks that another
    writes and frees, each arena keeps what it ever held: about half as much memory again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def out_of_memory_kills() -> int:
    """How many processes of this container the kernel has killed because its memory ran out; 0 where nobody counts."""
    try:
        lines = CGROUP_MEMORY_EVENTS.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
