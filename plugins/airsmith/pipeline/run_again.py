"""The end of a run once more: what it has made is deployed and proved as if the run came to that now."""

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

    :param number: of the version; the champion when None.
    :raises AirsmithError: `not_found` where the registry does not know the version, or no run that made it.
    """
    if number is None:
        champion = get_champion(store, name)
        if champion is None:
            raise AirsmithError(
                ErrorKind.NOT_FOUND, f"There is no model {name} in {store.uri}.", "Name one that a run has registered."
            )
        number = champion.version
    version = get_version(store, name, number)
    if version.run is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Version {number} of {name} does not say which run made it.",
            "Clear the task deploy of the run that did.",
        )
    return Run(store, version.run)


def run_again(source: Run, dag_id: str, run_id: str, settings: Settings, endpoint: str | None) -> Run:
    """A run that begins where another had come to `deploy`, with the images of today; its spec is written last.

    :param dag_id: of the new run; its `run_id` likewise.
    :param endpoint: where the model is served; where the source's recipe says when None.
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
