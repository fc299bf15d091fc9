"""A run's folder in the store, and the names of its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from airsmith.artifacts.layout import split_run_uri, trial_folder
from airsmith.artifacts.store import Store
from airsmith.contracts.pointers import Progress, StagePointer, StageStatus
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, StageContract
from airsmith.errors import AirsmithError, ErrorKind

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Run:
    """One execution of a recipe.

    :param store: the store that holds the run and every artifact.
    :param path: the run's folder in the store.
    """

    store: Store
    path: str

    @classmethod
    def open(cls, uri: str) -> Run:
        """Open a run by the URI of its folder, for example `s3://bucket/prefix/runs/<dag>/<run>`."""
        store_uri, path = split_run_uri(uri)
        return cls(Store.open(store_uri), path)

    @property
    def uri(self) -> str:
        """URI of the run's folder."""
        return f"{self.store.uri}/{self.path}"

    @property
    def name(self) -> str:
        """Name of the run's folder; for a trial, of its parent run's."""
        return self.path.split("/")[2]

    @property
    def trial_name(self) -> str:
        """Name of the trial; empty if the run is not a trial."""
        return "/".join(self.path.split("/")[4:])

    def trial(self, name: str) -> Run:
        """A trial of this run: a separate run inside this run's folder."""
        return Run(self.store, trial_folder(self.path, name))

    def write_spec(self, spec: RunSpec) -> None:
        """Write the spec. Not a conditional put, because clearing a run resolves it again."""
        self.write("spec.json", spec.model_dump_json(indent=2).encode())

    def read_spec(self, name: str = "spec.json") -> RunSpec:
        """Read the spec.

        :param name: name of the file.
        :raises AirsmithError: `not_found` if no spec was written.
        """
        return self._read_model(name, RunSpec)

    def has_spec(self) -> bool:
        """Whether the spec exists."""
        return self.store.exists(f"{self.path}/spec.json")

    def write_pointer(self, pointer: StagePointer) -> None:
        """Write the pointer to a stage's output."""
        self.write(f"stages/{pointer.stage}.json", pointer.model_dump_json(indent=2).encode())

    def pointer(self, stage: str) -> StagePointer | None:
        """The pointer to a stage's output; None if the stage has no output yet."""
        return self._read_optional(f"stages/{stage}.json", StagePointer)

    def input_pointers(self, contract: StageContract) -> dict[str, StagePointer]:
        """The existing pointers of a stage's inputs, by upstream stage."""
        found = {source.stage: self.pointer(source.stage) for source in contract.inputs}
        return {stage: pointer for stage, pointer in found.items() if pointer is not None}

    def write_status(self, status: StageStatus) -> None:
        """Write a stage's status."""
        self.write(f"status/{status.stage}.json", status.model_dump_json().encode())

    def statuses(self) -> dict[str, StageStatus]:
        """The statuses of the stages that have started, in pipeline order."""
        found = {}
        for stage in STAGES:
            status = self._read_optional(f"status/{stage}.json", StageStatus)
            if status is not None:
                found[stage] = status
        return found

    def write_progress(self, progress: Progress) -> None:
        """Write the progress of the training."""
        self.write("progress.json", progress.model_dump_json().encode())

    def progress(self) -> Progress | None:
        """The progress of the training; None before it starts."""
        return self._read_optional("progress.json", Progress)

    def write_metrics(self, part: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one part of the metrics. Objects cannot be appended to, so each part is a separate file."""
        self.write(f"metrics/{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def metrics_parts(self) -> list[str]:
        """Names of the parts of the metrics."""
        return sorted(PurePosixPath(info.path).stem for info in self.store.list(f"{self.path}/metrics"))

    def remove_metrics(self, part: str) -> None:
        """Remove one part of the metrics."""
        self.store.delete(f"{self.path}/metrics/{part}.jsonl")

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of the metrics, by step. If a resumed training repeated a step, the last values win."""
        rows: dict[int, dict[str, Any]] = {}
        for info in sorted(self.store.list(f"{self.path}/metrics"), key=lambda info: (info.modified, info.path)):
            for line in self.store.read(info.path).decode().splitlines():
                row = json.loads(line)
                rows[row["step"]] = {**rows.get(row["step"], {}), **row}
        return [rows[step] for step in sorted(rows)]

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run's folder."""
        self.store.write(f"{self.path}/{name}", data)

    def read(self, name: str) -> bytes:
        """Read a file of the run's folder."""
        return self.store.read(f"{self.path}/{name}")

    def _read_optional(self, name: str, model: type[_Model]) -> _Model | None:
        try:
            return self._read_model(name, model)
        except AirsmithError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                return None
            raise

    def _read_model(self, name: str, model: type[_Model]) -> _Model:
        try:
            return model.model_validate_json(self.read(name))
        except ValidationError as error:
            raise AirsmithError(
                ErrorKind.VERIFICATION_FAILED,
                f"{self.uri}/{name} is not a valid {model.__name__} of this version of Airsmith: "
                f"{error.errors()[0]['msg']}.",
                "Install the same version of Airsmith in Airflow and in the stages, and start a new run.",
            ) from error
