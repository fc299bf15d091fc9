"""Runs in a test's store: their specs as `resolve` writes them, and the outputs that their stages point to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version

from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import BatchPlan, RunSpec
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe


def write_run(
    store: Store, recipe: Recipe, *, toolchains: Mapping[str, Iterable[str]], batch: BatchPlan | None = None
) -> Run:
    """Write the spec of a new run; runs are numbered from 1 in each store.

    :param toolchains: the packages whose installed versions the spec pins, by a stage of their image.
    :param batch: replaces the plan's.
    """
    plan = make_plan(recipe)
    number = 1 + sum(info.path.endswith("/spec.json") for info in store.list("runs/tests"))
    run = Run(store, f"runs/tests/run-{number}")
    run.write_spec(
        RunSpec(
            dag_id="tests",
            run_id=f"run-{number}",
            recipe=recipe,
            recipe_file="tiny.yaml",
            recipe_digest=recipe_digest(recipe),
            plan=plan if batch is None else plan.model_copy(update={"batch": batch}),
            airsmith_version="0",
            toolchains={
                plan.stage(stage).image: {package: version(package) for package in packages}
                for stage, packages in toolchains.items()
            },
            created_at=datetime.now(timezone.utc),
        )
    )
    return run


def point_to(run: Run, stage: str, output: Output | Artifact) -> None:
    """Record an output as the result of a run's stage."""
    output = Output.of_artifact(output) if isinstance(output, Artifact) else output
    run.write_pointer(
        StagePointer(
            stage=stage,
            type=output.type,
            digest=output.digest,
            location=output.location,
            properties=output.properties,
            metrics=output.metrics,
            cached=False,
            started_at=datetime.now(timezone.utc),
            seconds=0.0,
        )
    )


def output_of(run: Run, stage: str) -> Artifact:
    """Open the artifact that a run's stage published."""
    pointer = run.pointer(stage)
    assert pointer is not None
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    return artifact


def contents(artifact: Artifact) -> dict[str, bytes]:
    """Read all files of an artifact, verified."""
    return {name: artifact.read(name) for name in artifact.names()}


def assert_store_is_consistent(store: Store) -> None:
    """Assert that every manifest has all of its content and every pointer refers to an existing output."""
    for info in list(store.list("")):
        if info.path.startswith("artifacts/") and info.path.endswith("/manifest.json"):
            artifact = open_artifact(store, info.path.removesuffix("/manifest.json"))
            assert artifact is not None
            contents(artifact)
        elif info.path.startswith("runs/") and "/stages/" in info.path:
            location = StagePointer.model_validate_json(store.read(info.path)).location
            assert list(store.list(location))
            assert not location.startswith("artifacts/") or open_artifact(store, location) is not None


def remove_folder(store: Store, folder: str) -> None:
    """Delete all objects under a path of the store."""
    for info in list(store.list(folder)):
        store.delete(info.path)
