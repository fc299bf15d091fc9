"""`airsmith-stage <stage> --run <URI of a run's folder>`: one stage of one run, as a pod or a local process runs it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith_stages.failures import exit_code_of
from airsmith_stages.frame import follow_stage, run_stage
from airsmith_stages.launch import is_leading_node

PREFLIGHT = "preflight"
"""No stage: it makes nothing, and looks whether the stages could."""


def run() -> NoReturn:
    """Run the stage that the command line names."""
    end(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage that the command line names.

    :returns: the process's exit code.
    """
    options = _parser().parse_args(arguments)
    begin()
    if options.stage == PREFLIGHT:
        from airsmith_stages.preflight import run_preflight  # brings an HTTP client that most stages need not load

        return exit_code_of(lambda: run_preflight(Run.open(options.run), options.pull_secrets))
    work = run_stage if is_leading_node() else follow_stage
    return exit_code_of(lambda: work(options.stage, Run.open(options.run)))


def begin(*, leader: bool = True) -> None:
    """Set up the log of this process.

    :param leader: whether it speaks for all processes of its stage; of the others only what is wrong is told.
    """
    # Airflow reads a line's level from this prefix.
    level = logging.INFO if leader else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    # A stage's output is a log. The Hub's client and transformers read this when they are loaded.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for client in ("httpx", "httpx2"):  # They log every request, with addresses that are signed.
        logging.getLogger(client).setLevel(logging.WARNING)


def end(code: int) -> NoReturn:
    """End the process at once.

    An interpreter that has torch and peft loaded takes a second to take itself apart; all that lasts is in the store.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airsmith-stage", description=__doc__)
    parser.add_argument("stage", choices=[PREFLIGHT, *(name for name in STAGES if name != "deploy")])
    parser.add_argument(
        "--run", required=True, help="URI of the run's folder, for example s3://bucket/prefix/runs/<dag>/<run>"
    )
    parser.add_argument(
        "--pull-secrets", type=Path, help="preflight only: folder of the registries' credentials, one folder per Secret"
    )
    return parser


if __name__ == "__main__":
    run()
