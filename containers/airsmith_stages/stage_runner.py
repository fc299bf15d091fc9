"""Runs a stage: checks the cache, runs the stage's code, and records a pointer to its output.

A stage may run in several processes on several nodes. The process on the leader node launches the node's processes
and records the stage; the other nodes only launch theirs.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from airsmith.contracts.cache import Output, look_up_output
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, public_version, toolchain_for
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.failures import scratch_folder, stage_errors
from airsmith_stages.launch import is_launched, launch
from airsmith_stages.stage_context import StageContext, installed_versions

log = logging.getLogger("airsmith")


class StageModule(Protocol):
    """A module of this package that implements a stage."""

    def run(self, context: StageContext) -> Output:
        """Do the stage's work, publish its output and return it."""


def run_stage(stage: str, run: Run) -> StagePointer:
    """Run a stage, or reuse its cached output.

    :returns: the pointer to the output.
    :raises AirsmithError: if the stage fails; nothing that is partly published remains.
    """
    with recorded_stage(stage, run) as record, stage_errors():
        spec = run.read_spec()
        output = look_up_output(run, spec, stage)
        if output.found:
            log.info("%s: reusing %s/%s", stage, run.store.uri, output.location)
            return record.finish(output, cached=True)
        _check_toolchain(stage, spec)
        return record.finish(_make(stage, run, spec, output), cached=False)


def run_follower_node(stage: str, run: Run) -> None:
    """Run this node's processes of a stage that the leader node records.

    :raises AirsmithError: if a process fails.
    """
    with stage_errors():
        spec = run.read_spec()
        output = look_up_output(run, spec, stage)
        if not output.found:
            _check_toolchain(stage, spec)
            with _context(stage, run, spec, output) as context:
                launch(context)


def run_worker(stage: str, run: Run) -> None:
    """Run a stage's code in one of its launched processes. The launcher records the stage.

    :raises AirsmithError: if the stage fails.
    """
    with stage_errors():
        spec = run.read_spec()
        with _context(stage, run, spec, look_up_output(run, spec, stage)) as context:
            _run_module(context)


def _make(stage: str, run: Run, spec: RunSpec, output: Output) -> Output:
    with _context(stage, run, spec, output) as context:
        if not is_launched(stage, spec):
            return _run_module(context)
        launch(context)
    made = look_up_output(run, spec, stage)
    if not made.found:
        raise AirsmithError(ErrorKind.INTERNAL, f"The processes of {stage} exited with code 0 but published no output.")
    return made


def _run_module(context: StageContext) -> Output:
    module: StageModule = importlib.import_module(f"airsmith_stages.{context.contract.name}")
    return module.run(context)


@contextmanager
def _context(stage: str, run: Run, spec: RunSpec, output: Output) -> Iterator[StageContext]:
    """A stage's context, whose scratch folder is removed at the end of the block."""
    contract = STAGES[stage]
    with tempfile.TemporaryDirectory(prefix=f"airsmith-{stage}-", dir=scratch_folder()) as scratch:
        yield StageContext(run, spec, contract, output, run.input_pointers(contract), Path(scratch))


def _check_toolchain(stage: str, spec: RunSpec) -> None:
    """Check that the installed versions are those in the spec: the output's digest was computed from them."""
    for name, version in installed_versions(toolchain_for(STAGES[stage], spec.recipe)).items():
        planned = spec.toolchain_version(stage, name)
        if public_version(planned) != public_version(version):
            raise AirsmithError(
                ErrorKind.INTERNAL,
                f"Stage {stage} was planned for {name} {planned}, but {version} is installed in its environment.",
                "Start a new run; on a cluster, build the images and their list of versions together.",
            )
