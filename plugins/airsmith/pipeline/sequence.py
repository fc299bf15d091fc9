"""A run without Airflow: the same spec, the same stages in the same order, one after the other in this terminal."""

from __future__ import annotations

from collections.abc import Callable

from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.pipeline.resolve import RunRequest, resolve
from airsmith.runtimes.process import TellLine, bring_to_output
from airsmith.serving.local import deploy
from airsmith.settings import Settings


def run_sequence(
    request: RunRequest,
    settings: Settings,
    tell_run: Callable[[Run], None],
    tell_stage: Callable[[StagePointer], None],
    tell_line: TellLine,
) -> Run:
    """Resolve a run and bring each of its stages to its output. Running it again goes on where it ended.

    :param tell_run: is given the run once it is resolved.
    :param tell_stage: is given the pointer of each stage that has its output.
    :param tell_line: is given each line of the stages' logs.
    :raises AirsmithError: of the first stage that fails; what the stages before it made stays.
    """
    run = resolve(request, settings)
    tell_run(run)
    for stage in run.read_spec().plan.stages:
        if stage.runs_in_worker:
            pointer = deploy(run, settings)
        else:
            pointer = bring_to_output(stage.stage, run, settings, tell_line)
        tell_stage(pointer)
    return run
