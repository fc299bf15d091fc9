"""Runs as `resolve` leaves them, for benchmarks that start a stage's real command."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe


def write_spec(run: Run, stage: str, model: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Resolve a run, so that one stage of it can start."""
    recipe = Recipe.model_validate(
        {"name": "benchmark", "model": model, "dataset": dataset, "method": {"name": "lora"}}
    )
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
