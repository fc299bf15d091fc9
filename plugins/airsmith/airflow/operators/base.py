"""What the operators of all runtimes share: typed errors, reuse of an existing output, asset events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.definitions.context import Context

from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import StageRecord, reuse_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.stage_errors import as_stage_error

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


@contextmanager
def typed_errors(log: Logger) -> Iterator[None]:
    """Log an error, its remedy and its documentation page, and raise the exception class of its kind."""
    try:
        yield
    except AirsmithError as error:
        log.error(error.message)
        if error.hint:
            log.error("What to do: %s", error.hint)
        log.error("See %s", error.page)
        raise as_stage_error(error) from None


def output_of(stage: str, run: Run) -> StagePointer:
    """The output that a stage whose pods have succeeded points to.

    :raises AirsmithError: `internal` if it points to none.
    """
    pointer = run.pointer(stage)
    if pointer is None:
        raise AirsmithError(ErrorKind.INTERNAL, f"The pod of {stage} succeeded but points to no output.")
    return pointer


def annotate_asset_events(context: Context, outlets: Iterable[Any], run_uri: str, pointer: StagePointer) -> None:
    """Attach an output's location, properties and metrics to the events of a task's assets."""
    for outlet in outlets:
        context["outlet_events"][outlet].extra = {
            "run": run_uri,
            "location": pointer.location,
            **pointer.properties,
            **pointer.metrics,
        }


def fail(error: AirsmithError, stage: str, run: Run, log: Logger) -> NoReturn:
    """Raise an error, and record it on behalf of a stage that could not."""
    status = run.statuses().get(stage)
    if error.kind is ErrorKind.PREEMPTED and status is not None and status.state == "interrupted":
        log.info(status.error)
    else:
        StageRecord.start(stage, run).fail(error)
    raise error


class ReusableStage:
    """Mixin of the operators that run a stage on a cluster: an existing output is reused before anything starts.

    :ivar stage: name of the stage.
    :ivar run_uri: URI of the run's folder.
    """

    stage: str
    run_uri: str
    outlets: list[Any]
    log: Any

    def reuse_output(self, context: Context, run: Run, spec: RunSpec) -> bool:
        """Point to the stage's output if it exists.

        :returns: whether it exists.
        """
        reused = reuse_output(self.stage, run, spec)
        if reused is None:
            return False
        if context["ti"].try_number > 1:
            self.remove_leftovers(run, spec)
        self.log.info("Reusing %s/%s: nothing that determines it has changed.", run.store.uri, reused.location)
        annotate_asset_events(context, self.outlets, self.run_uri, reused)
        return True

    def remove_leftovers(self, run: Run, spec: RunSpec) -> None:
        """Remove what an earlier try has left in the cluster because its worker died."""
        raise NotImplementedError

    def finish(self, context: Context) -> None:
        """Attach the output of pods that have succeeded to the task's assets.

        :raises AirsmithError: `internal` if the stage points to no output.
        """
        annotate_asset_events(context, self.outlets, self.run_uri, output_of(self.stage, Run.open(self.run_uri)))
