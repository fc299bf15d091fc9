"""The context that a stage's code receives: its run, its inputs, the output to make and a scratch folder."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from airsmith.artifacts.publish import ArtifactWriter, write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.cache import Output
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import StageContract, toolchain_for
from airsmith.errors import AirsmithError, ErrorKind


@dataclass(frozen=True)
class StageContext:
    """The context of one stage of one run.

    :param output: the output to make: its type, digest and folder.
    :param pointers: locations of the inputs, by upstream stage.
    :param scratch: an empty folder on the local disk, removed when the stage finishes.
    """

    run: Run
    spec: RunSpec
    contract: StageContract
    output: Output
    pointers: Mapping[str, StagePointer]
    scratch: Path

    def input(self, stage: str) -> Artifact:
        """The output of an upstream stage.

        :raises AirsmithError: `not_found` if the artifact no longer exists.
        """
        pointer = self.pointers[stage]
        artifact = open_artifact(self.run.store, pointer.location)
        if artifact is None:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The output of {stage}, {self.run.store.uri}/{pointer.location}, no longer exists in the store.",
                f"Clear {stage} to make it again.",
            )
        return artifact

    def fetch(self, stage: str, names: Iterable[str] | None = None) -> Path:
        """Download and verify the files of an upstream stage.

        :param names: the files to download; all files if None.
        :returns: the local folder.
        """
        return self.input(stage).download(self.scratch / "inputs" / stage, names)

    def write_output(self) -> AbstractContextManager[ArtifactWriter]:
        """Open a writer for the stage's artifact. Leaving the block without calling `publish` removes all files."""
        return write_artifact(
            self.run.store,
            self.output.location,
            type=self.output.type,
            digest=self.output.digest,
            inputs={stage: pointer.digest for stage, pointer in self.pointers.items()},
            versions={
                "airsmith": self.spec.airsmith_version,
                **installed_versions(toolchain_for(self.contract, self.spec.recipe)),
            },
        )


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of installed distributions, by name."""
    return {name: importlib.metadata.version(name) for name in distributions}
