"""One of several processes of a stage, as torchrun starts it: `python -m airsmith_stages.worker <stage> <run's URI>`.

What goes wrong it leaves to whoever started it: that one hears all of them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from airsmith.contracts.run import Run
from airsmith_stages.cli import begin, end
from airsmith_stages.failures import exit_code_of
from airsmith_stages.frame import take_part

_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of Linux's prctl."""


def main() -> None:
    """Take part in the stage that the command line names."""
    _die_with_the_launcher()
    stage, uri = sys.argv[1:]
    begin(leader=os.environ["RANK"] == "0")
    end(exit_code_of(lambda: take_part(stage, Run.open(uri))))


def _die_with_the_launcher() -> None:
    """torchrun gives its processes a session of their own: without this they would outlive it where it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    main()
