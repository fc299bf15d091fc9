"""Processes that a test starts and waits for."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

DEADLINE_SECONDS = 600
"""Longer than any wait takes on a busy machine: a test that reaches it hangs."""


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a condition holds; a process that exits before fails the test."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
