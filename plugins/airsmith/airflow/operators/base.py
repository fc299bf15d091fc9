"""How a task on a cluster ends: its stage's output is pointed to and told to assets, or its failure is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.definitions.context import Context

from airsmith.airflow.operators.local import event_extra
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def output_of(stage: str, run: Run) -> StagePointer:
    """What a stage whose pods ended well points to.

    :raises AirsmithError: `internal` where it points to nothing.
    """
    pointer = run.pointer(stage)
    if pointer is None:
        raise AirsmithError(ErrorKind.INTERNAL, f"The pod of {stage} ended well but points to no output.")
    return pointer


def tell_assets(context: Context, outlets: Iterable[Any], run_uri: str, pointer: StagePointer) -> None:
    """Put an output's metrics on the events of a task's assets."""
    for outlet in outlets:
        context["outlet_events"][outlet].extra = event_extra(run_uri, pointer)


def fail(error: AirsmithError, stage: str, run: Run, log: Logger) -> NoReturn:
    """Raise an error that the stage may have been unable to tell, and tell it in its place."""
    told = run.statuses().get(stage)
    if error.kind is ErrorKind.PREEMPTED and told is not None and told.state == "interrupted":
        log.info(told.error)
    else:
        StageRecord.begin(stage, run).fail(error)
    raise error
