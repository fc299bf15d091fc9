"""Decide a run once: recipe, form and overrides become one checked spec in which nothing can move any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import airsmith
from airsmith.artifacts.layout import run_folder
from airsmith.artifacts.store import Store
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.run import Run
from airsmith.contracts.spec import Plan, RunSpec
from airsmith.pipeline.model_config import read_model_config
from airsmith.pipeline.model_fit import fit_to_model
from airsmith.pipeline.pins import pin_sources
from airsmith.pipeline.plan import check_nodes, make_plan
from airsmith.pipeline.sweep import trials_of
from airsmith.pipeline.toolchains import toolchains_of
from airsmith.process.hub_token import ReadConnection, hub_token, no_connections
from airsmith.recipe.merge import merge_recipe
from airsmith.settings import Settings


@dataclass(frozen=True)
class RunRequest:
    """What somebody, or a schedule, wants to run.

    :param form: values of the trigger form, by field name; none outside Airflow.
    :param overrides: values by dotted path, for fields that the form does not show.
    :param bundle_version: commit that the DAG and the recipe file come from, where known.
    :param is_sweep: whether the recipe's trials are run, and not the recipe as it is.
    """

    dag_id: str
    run_id: str
    recipe_file: Path
    form: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    bundle_version: str | None = None
    is_sweep: bool = False


def resolve(request: RunRequest, settings: Settings, read_connection: ReadConnection = no_connections) -> Run:
    """Merge, check, plan, pin, and fit to the model; write the spec last, so that a bad request leaves nothing behind.

    :param read_connection: looks up the password of an Airflow connection, should the Hub's token be one.
    :raises AirsmithError: naming the field, the cause and the remedy.
    """
    merged = merge_recipe(request.recipe_file, request.form, request.overrides)
    plan = make_plan(merged.recipe, is_sweep=request.is_sweep)
    check_nodes(merged.recipe, settings)
    if request.is_sweep:
        trials_of(merged.recipe)
    toolchains = toolchains_of(plan, merged.recipe, settings)
    store = Store.open(settings.store)
    pinned = pin_sources(
        merged.recipe, store, settings.hub_endpoint, lambda: hub_token(merged.recipe, settings, read_connection)
    )
    recipe = fit_to_model(pinned, lambda: read_model_config(pinned, settings, read_connection))
    run = Run(store, run_folder(request.dag_id, request.run_id))
    run.write_spec(
        RunSpec(
            dag_id=request.dag_id,
            run_id=request.run_id,
            recipe=recipe,
            recipe_file=request.recipe_file.name,
            changed_fields=merged.changed_fields,
            recipe_digest=recipe_digest(recipe),
            plan=plan,
            airsmith_version=airsmith.__version__,
            bundle_version=request.bundle_version,
            images=image_references(plan, settings),
            toolchains=toolchains,
            created_at=datetime.now(timezone.utc),
        )
    )
    return run


def image_references(plan: Plan, settings: Settings) -> dict[str, str]:
    """The images of a run on a cluster, by digest."""
    if not settings.uses_cluster:
        return {}
    return {stage.image: settings.image(stage.image).reference for stage in plan.stages if not stage.runs_in_worker}
