"""What every stage does around its own work: find inputs, check the cache, work, publish, point to the output.

A stage may be the work of several processes on several nodes. Then the process that was asked for it launches them and
keeps the record; on the other nodes it only launches.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from airsmith.artifacts.publish import ArtifactWriter, write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.cache import Output, look_up_output
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, StageContract, public_version, toolchain_on
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.failures import scratch_folder, stage_errors
from airsmith_stages.launch import is_launched, launch

log = logging.getLogger("airsmith")


@dataclass(frozen=True)
class StageContext:
    """What a stage's code is given.

    :param wanted: the output to make: its type, digest and folder.
    :param pointers: where the inputs lie, by upstream stage.
    :param scratch: an empty folder on the local disk, removed at the end.
    """

    run: Run
    spec: RunSpec
    contract: StageContract
    wanted: Output
    pointers: Mapping[str, StagePointer]
    scratch: Path

    def input(self, stage: str) -> Artifact:
        """The output of an upstream stage.

        :raises AirsmithError: `not_found` where its artifact is gone.
        """
        pointer = self.pointers[stage]
        artifact = open_artifact(self.run.store, pointer.location)
        if artifact is None:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The output of {stage}, {self.run.store.uri}/{pointer.location}, is gone from the store.",
                f"Clear {stage} so that it is made again.",
            )
        return artifact

    def fetch(self, stage: str, names: Iterable[str] | None = None) -> Path:
        """Copy an upstream stage's files, all or some, to the local disk, verified."""
        return self.input(stage).download(self.scratch / "inputs" / stage, names)

    def write_output(self) -> AbstractContextManager[ArtifactWriter]:
        """Begin the artifact that this stage makes; leaving without `publish` leaves nothing behind."""
        return write_artifact(
            self.run.store,
            self.wanted.location,
            type=self.wanted.type,
            digest=self.wanted.digest,
            inputs={stage: pointer.digest for stage, pointer in self.pointers.items()},
            versions={
                "airsmith": self.spec.airsmith_version,
                **_installed(toolchain_on(self.contract, self.spec.recipe)),
            },
        )


class StageModule(Protocol):
    """A module of this package that holds a stage."""

    def run(self, context: StageContext) -> Output:
        """Do the stage's work and return what it made, published."""


def run_stage(stage: str, run: Run) -> StagePointer:
    """Run one stage of a run to its pointer.

    :raises AirsmithError: with the kind that says what to do about it; nothing half-published stays.
    """
    with recorded_stage(stage, run) as record, stage_errors():
        spec = run.read_spec()
        wanted = look_up_output(run, spec, stage)
        if wanted.found:
            log.info("%s: reusing %s/%s", stage, run.store.uri, wanted.location)
            return record.finish(wanted, cached=True)
        _check_toolchain(stage, spec)
        return record.finish(_make(stage, run, spec, wanted), cached=False)


def follow_stage(stage: str, run: Run) -> None:
    """Run this node's processes of a stage that another node leads, and keeps the record of.

    :raises AirsmithError: with the kind that says what to do about it.
    """
    with stage_errors():
        spec = run.read_spec()
        wanted = look_up_output(run, spec, stage)
        if not wanted.found:
            _check_toolchain(stage, spec)
            with _context(stage, run, spec, wanted) as context:
                launch(context)


def take_part(stage: str, run: Run) -> None:
    """Do the work of a stage as one of several processes. Who has launched them keeps the stage's record.

    :raises AirsmithError: with the kind that says what to do about it.
    """
    with stage_errors():
        spec = run.read_spec()
        with _context(stage, run, spec, look_up_output(run, spec, stage)) as context:
            _work(context)


def _make(stage: str, run: Run, spec: RunSpec, wanted: Output) -> Output:
    with _context(stage, run, spec, wanted) as context:
        if not is_launched(stage, spec):
            return _work(context)
        launch(context)
    made = look_up_output(run, spec, stage)
    if not made.found:
        raise AirsmithError(ErrorKind.INTERNAL, f"The processes of {stage} ended well but made no output.")
    return made


def _work(context: StageContext) -> Output:
    module: StageModule = importlib.import_module(f"airsmith_stages.{context.contract.name}")
    return module.run(context)


@contextmanager
def _context(stage: str, run: Run, spec: RunSpec, wanted: Output) -> Iterator[StageContext]:
    """What a stage's code, or whoever launches its processes, is given; its scratch folder is removed at the end."""
    contract = STAGES[stage]
    with tempfile.TemporaryDirectory(prefix=f"airsmith-{stage}-", dir=scratch_folder()) as scratch:
        yield StageContext(run, spec, contract, wanted, run.input_pointers(contract), Path(scratch))


def _installed(distributions: Iterable[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in distributions}


def _check_toolchain(stage: str, spec: RunSpec) -> None:
    """The digest was computed for the versions in the spec: another version here would make it a lie."""
    for name, version in _installed(toolchain_on(STAGES[stage], spec.recipe)).items():
        planned = spec.toolchain_version(stage, name)
        if public_version(planned) != public_version(version):
            raise AirsmithError(
                ErrorKind.INTERNAL,
                f"Stage {stage} was planned for {name} {planned}, but {version} is installed where it runs.",
                "Start a new run; on a cluster, build the images and their list of versions together.",
            )
