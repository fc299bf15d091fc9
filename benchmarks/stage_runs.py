"""Runs in the state after `resolve`, for benchmarks that start the real command of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

from airsmith.artifacts.read import Artifact
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe


def write_spec(
    run: Run, stage: str, model: Mapping[str, Any], dataset: Mapping[str, Any], **groups: Mapping[str, Any]
) -> None:
    """Write a run's spec, so that one of its stages can start.

    :param groups: further sections of the recipe.
    """
    recipe = Recipe.model_validate({"name": "benchmark", "model": model, "dataset": dataset, **groups})
    plan = make_plan(recipe)
    run.write_spec(
        RunSpec(
            dag_id="benchmark",
            run_id=stage,
            recipe=recipe,
            recipe_file="benchmark.yaml",
            recipe_digest="0" * 64,
            plan=plan,
            airsmith_version="0",
            toolchains={plan.stage(stage).image: {name: version(name) for name in STAGES[stage].toolchain}},
            created_at=datetime.now(timezone.utc),
        )
    )


def give(run: Run, stage: str, artifact: Artifact) -> None:
    """Write the pointer to an upstream stage's output."""
    run.write_pointer(
        StagePointer(
            stage=stage,
            type=artifact.type,
            digest=artifact.digest,
            location=artifact.folder,
            properties=dict(artifact.manifest.properties),
            cached=False,
            started_at=datetime.now(timezone.utc),
            seconds=0.0,
        )
    )
