"""One of several processes of a stage, started by torchrun: `python -m airsmith_stages.worker <stage> <run's URI>`.

It leaves its error in torchrun's error file; the launcher reads the errors of all processes.
"""

from __future__ import annotations

import os
import sys

from airsmith.contracts.run import Run
from airsmith_stages.failures import exit_code_of
from airsmith_stages.stage_process import configure_logging, exit_process
from airsmith_stages.stage_runner import run_worker
from airsmith_stages.torchrun import exit_with_parent


def main() -> None:
    """Run the stage named on the command line as one of its processes."""
    exit_with_parent()
    stage, uri = sys.argv[1:]
    configure_logging(is_main_process=os.environ["RANK"] == "0")
    exit_process(exit_code_of(lambda: run_worker(stage, Run.open(uri))))


if __name__ == "__main__":
    main()
