"""The cache check: whether a stage's output exists. Airflow checks before it starts a pod, and the pod checks again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from airsmith.artifacts.layout import artifact_folder, model_version_folder
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.digests import stage_digest
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec, StagePlan
from airsmith.contracts.stages import STAGES, ArtifactType, output_type
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.sources import source_kind
from airsmith.registry import CARD_FILE, find_version_by_digest, get_version


@dataclass(frozen=True)
class Output:
    """A stage's existing or expected output.

    :param location: its path in the store.
    :param found: whether it exists and is complete.
    """

    type: str
    digest: str
    location: str
    found: bool
    properties: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float | int | str | bool | None] = field(default_factory=dict)

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> Output:
        """A published artifact as a stage's output."""
        manifest = artifact.manifest
        return cls(
            manifest.type, manifest.digest, artifact.folder, True, dict(manifest.properties), dict(manifest.metrics)
        )

    def pointer(self, stage: str) -> StagePointer:
        """A pointer to the output, marked as cached."""
        return StagePointer(
            stage=stage,
            type=self.type,
            digest=self.digest,
            location=self.location,
            properties=self.properties,
            metrics=self.metrics,
            cached=True,
            started_at=datetime.now(timezone.utc),
            seconds=0.0,
        )


def look_up_output(run: Run, spec: RunSpec, stage: str) -> Output:
    """Compute a stage's digest from the pointers of its inputs, and look up its output.

    :raises AirsmithError: `not_found`, naming the upstream stage that has not run.
    """
    return _look_up(stage, run.store, spec, run.input_pointers(STAGES[stage]))


def stages_to_run(run: Run, spec: RunSpec) -> tuple[str, ...]:
    """The stages before `deploy` whose output does not exist, in order: those that need a pod.

    Only reads the store; writes nothing to the run's folder.
    """
    found = {stage for stage, output in expected_outputs(run, spec) if output.found}
    return tuple(plan.stage for plan in _stages_before_deploy(spec) if plan.stage not in found)


def expected_outputs(run: Run, spec: RunSpec) -> Iterator[tuple[str, Output]]:
    """The outputs of the stages before `deploy`, in order, with the name of the stage.

    Omits stages whose inputs do not exist yet. Only reads the store; writes nothing to the run's folder.
    """
    pointers: dict[str, StagePointer] = {}
    for plan in _stages_before_deploy(spec):
        if {source.stage for source in STAGES[plan.stage].inputs_in(spec.plan.names())} <= pointers.keys():
            output = _look_up(plan.stage, run.store, spec, pointers)
            yield plan.stage, output
            if output.found:
                pointers[plan.stage] = output.pointer(plan.stage)


def _stages_before_deploy(spec: RunSpec) -> list[StagePlan]:
    return list(itertools.takewhile(lambda plan: not plan.runs_in_worker, spec.plan.stages))


def _look_up(stage: str, store: Store, spec: RunSpec, pointers: Mapping[str, StagePointer]) -> Output:
    contract = STAGES[stage]
    digest = stage_digest(contract, spec, pointers)
    if stage == "mirror_model" and source_kind(spec.recipe.model.id) == "registry":
        return _registered_model(store, spec.recipe.model.id)
    if stage == "merge" and spec.recipe.method.name == "full":
        return _full_training_output(pointers[spec.plan.training_output_stage])
    kind = output_type(contract, spec.recipe)
    if kind == ArtifactType.MODEL_VERSION:
        return _model_version(store, spec.recipe.name, digest)
    return _artifact(store, kind, digest, artifact_folder(kind, digest))


def _artifact(store: Store, kind: str, digest: str, folder: str) -> Output:
    artifact = open_artifact(store, folder)
    return Output(kind, digest, folder, found=False) if artifact is None else Output.of_artifact(artifact)


def _registered_model(store: Store, model_id: str) -> Output:
    """The model of a registered version, which needs no copy."""
    _, name, number = model_id.split("/")
    version = get_version(store, name, int(number))
    found = _artifact(store, ArtifactType.MODEL, version.model.rsplit("/", 1)[-1], version.model)
    if not found.found:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Model {model_id} points to {version.model}, which is not in the store.",
            "Use another version, or restore the artifact.",
        )
    return found


def _full_training_output(pointer: StagePointer) -> Output:
    """The output of a full training, which needs no merge."""
    return Output(pointer.type, pointer.digest, pointer.location, True, dict(pointer.properties), dict(pointer.metrics))


def _model_version(store: Store, name: str, digest: str) -> Output:
    """A registered version. One without a card is incomplete: the process that registered it died."""
    version = find_version_by_digest(store, name, digest)
    location = model_version_folder(name, version.version) if version is not None else f"models/{name}"
    if version is None or not store.exists(f"{location}/{CARD_FILE}"):
        return Output(ArtifactType.MODEL_VERSION, digest, location, found=False)
    properties = {"version": str(version.version)}
    return Output(ArtifactType.MODEL_VERSION, digest, location, True, properties, dict(version.metrics))
