"""What malloc keeps of a process's memory."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20


def give_back_large_blocks() -> None:
    """Let malloc return blocks of a mebibyte and more to the system when they are freed; for stages that pass bytes on.

    glibc raises that limit by itself, up to 32 MiB, when such a block is freed, and then keeps about as much memory
    again as is in use (mallopt(3), M_MMAP_THRESHOLD). Not for training, which takes the same blocks again and again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
