"""One of several processes of a stage, as torchrun starts it: `python -m airsmith_stages.worker <stage> <run's URI>`.

What goes wrong it leaves to whoever started it: that one hears all of them.
"""

from __future__ import annotations

import os
import sys

from airsmith.contracts.run import Run
from airsmith_stages.cli import begin, end
from airsmith_stages.failures import exit_code_of
from airsmith_stages.frame import take_part
from airsmith_stages.torchrun import die_with_the_parent


def main() -> None:
    """Take part in the stage that the command line names."""
    die_with_the_parent()
    stage, uri = sys.argv[1:]
    begin(leader=os.environ["RANK"] == "0")
    end(exit_code_of(lambda: take_part(stage, Run.open(uri))))


if __name__ == "__main__":
    main()
