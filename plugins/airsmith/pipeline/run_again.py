"""A new run of another run's last stages: deploy and smoke_test."""

from __future__ import annotations

from datetime import datetime, timezone

import airsmith
from airsmith.artifacts.layout import run_folder
from airsmith.artifacts.store import Store
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.plan import make_plan
from airsmith.pipeline.resolve import image_references
from airsmith.registry import get_champion, get_version
from airsmith.settings import Settings


def run_of_version(store: Store, name: str, number: int | None) -> Run:
    """The run that made a registered version.

    :param number: number of the version; None means the champion.
    :raises AirsmithError: `not_found` if the registry has no such version, or no run of it.
    """
    if number is None:
        champion = get_champion(store, name)
        if champion is None:
            raise AirsmithError(ErrorKind.NOT_FOUND, f"{store.uri} has no model {name}.", "Name a registered model.")
        number = champion.version
    version = get_version(store, name, number)
    if version.run is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Version {number} of {name} does not name the run that made it.",
            "Clear the task deploy of that run.",
        )
    return Run(store, version.run)


def run_again(source: Run, dag_id: str, run_id: str, settings: Settings, endpoint: str | None) -> Run:
    """A run with another run's outputs whose plan is `deploy` and `smoke_test`, with the current images.

    :param dag_id: DAG id of the new run; `run_id` is its run id.
    :param endpoint: name of the endpoint; None means the one of the source's recipe.
    """
    spec = source.read_spec()
    serve = spec.recipe.serve.model_copy(update={"enabled": True, "name": endpoint or spec.recipe.endpoint_name})
    recipe = spec.recipe.model_copy(update={"serve": serve})
    plan = make_plan(recipe)
    left = plan.model_copy(update={"stages": tuple(plan.stage(stage) for stage in ("deploy", "smoke_test"))})
    run = Run(source.store, run_folder(dag_id, run_id))
    for stage in STAGES:
        pointer = source.pointer(stage)
        if pointer is not None and not left.has(stage):
            run.write_pointer(pointer)
    run.write_spec(
        spec.model_copy(
            update={
                "dag_id": dag_id,
                "run_id": run_id,
                "recipe": recipe,
                "recipe_digest": recipe_digest(recipe),
                "plan": left,
                "airsmith_version": airsmith.__version__,
                "images": image_references(left, settings),
                "created_at": datetime.now(timezone.utc),
            }
        )
    )
    return run
