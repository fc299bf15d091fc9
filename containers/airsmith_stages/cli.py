"""`airsmith-stage <stage> --run <URI of a run's folder>` runs one stage of one run, in a pod or a local process."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith_stages.failures import exit_code_of
from airsmith_stages.launch import is_leader_node
from airsmith_stages.stage_process import configure_logging, exit_process
from airsmith_stages.stage_runner import run_follower_node, run_stage

PREFLIGHT = "preflight"
"""Not a stage: it makes no output, and checks that the stages can run."""


def run() -> NoReturn:
    """Run the stage named on the command line and exit."""
    exit_process(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage named on the command line.

    :returns: the process's exit code.
    """
    options = _parser().parse_args(arguments)
    configure_logging()
    if options.stage == PREFLIGHT:
        from airsmith_stages.preflight import run_preflight  # imports an HTTP client that most stages do not need

        return exit_code_of(lambda: run_preflight(Run.open(options.run), options.pull_secrets))
    run_on_node = run_stage if is_leader_node() else run_follower_node
    return exit_code_of(lambda: run_on_node(options.stage, Run.open(options.run)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airsmith-stage", description=__doc__)
    parser.add_argument("stage", choices=[PREFLIGHT, *(name for name in STAGES if name != "deploy")])
    parser.add_argument(
        "--run", required=True, help="URI of the run's folder, for example s3://bucket/prefix/runs/<dag>/<run>"
    )
    parser.add_argument(
        "--pull-secrets", type=Path, help="preflight only: folder of registry credentials, one folder per Secret"
    )
    return parser


if __name__ == "__main__":
    run()
