"""What malloc keeps of a process's memory."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8


def share_one_arena() -> None:
    """Let all threads that begin from now on take memory from one arena; for stages that pass bytes on.

    glibc gives each thread an arena of its own (mallopt(3), M_ARENA_MAX). Where one thread reads blocks that another
    writes and frees, each arena keeps what it ever held: about half as much memory again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
