"""The model that a run deploys: the merged model, or the base model with all adapters of the endpoint."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.backends.servers import check_sharding, server_of
from airsmith.contracts.adapter_files import ADAPTER_CONFIG
from airsmith.contracts.digests import canonical_digest
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.registry import Endpoint
from airsmith.serving.cluster.served_model import ServedAdapter, ServedModel
from airsmith.serving.engines import ENGINES

MODEL_CONFIG = "config.json"


def resolve_served_model(run: Run, endpoint: Endpoint | None) -> ServedModel:
    """The model of a new revision of a run's endpoint.

    :param endpoint: the endpoint as recorded; its adapters of other recipes stay if they have the same base model.
    :raises AirsmithError: `not_found` if a stage of the run has no output yet; `bad_recipe` if the engine does not run
        in a cluster, the endpoint serves adapters of another base model, or the model cannot be split over the devices.
    """
    recipe = run.read_spec().recipe
    engine = ENGINES.get(recipe.serve.engine)
    if engine is not None and not engine.runs_in_cluster:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.engine is {engine.name!r}, which does not run in a cluster.",
            "Set serve.engine to 'auto' or 'vllm'.",
        )
    server = server_of(recipe)
    adapters = _adapters(run, recipe, endpoint) if recipe.serve.mode == "adapter" else ()
    served = _output_of("mirror_model" if adapters else "merge", run)
    config = json.loads(served.read(MODEL_CONFIG))
    check_sharding(config, server)
    registered = run.pointer("register")
    return ServedModel(
        endpoint=recipe.endpoint_name,
        revision=str(uuid.uuid4()),
        artifact=served.folder,
        files=f"{served.folder}/{served.manifest.content_root}",
        dtype=_dtype(config, recipe if adapters else None),
        version=int(registered.properties["version"]) if registered is not None else None,
        recipe=recipe,
        adapters=adapters,
        run=run.path.rsplit("/", 1)[-1],
        config=canonical_digest(config),
    )


def _adapters(run: Run, recipe: Recipe, endpoint: Endpoint | None) -> tuple[ServedAdapter, ...]:
    """The endpoint's adapters of other recipes, then the run's adapter."""
    own = _output_of(run.read_spec().plan.training_output_stage, run)
    if own.type != ArtifactType.ADAPTER:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.mode is 'adapter', but the output {own.uri} is of type {own.type}.",
            "Set serve.mode to 'merged'.",
        )
    current = endpoint.current if endpoint is not None else None
    others = {name: path for name, path in (current.adapters if current else {}).items() if name != recipe.name}
    base = _output_of("mirror_model", run).folder
    if current is not None and others and current.model_uri != base:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Endpoint {recipe.endpoint_name} serves {', '.join(sorted(others))} with base model {current.model_uri}, "
            f"but the base model of {recipe.name} is {base}.",
            "Set serve.name to another endpoint, or train on the same revision of the base model.",
        )
    paths = {**others, recipe.name: own.folder}
    return tuple(ServedAdapter(name, path, _rank(_open(run.store, path))) for name, path in paths.items())


def _output_of(stage: str, run: Run) -> Artifact:
    pointer = run.pointer(stage)
    if pointer is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Stage deploy needs the output of {stage}, which this run does not have.",
            f"Run {stage}.",
        )
    return _open(run.store, pointer.location)


def _open(store: Store, path: str) -> Artifact:
    artifact = open_artifact(store, path)
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"{store.uri}/{path} no longer exists.", "Clear the stage that creates it."
        )
    return artifact


def _rank(adapter: Artifact) -> int:
    """The highest rank of an adapter's matrices, which sizes the server's buffers."""
    config: dict[str, Any] = json.loads(adapter.read(ADAPTER_CONFIG))
    return max(int(config["r"]), *(int(rank) for rank in (config.get("rank_pattern") or {}).values()), 1)


def _dtype(config: Mapping[str, Any], recipe: Recipe | None) -> str:
    """The dtype of the weights: the recipe's for a base model, otherwise that of the files.

    :param recipe: None for a merged model.
    """
    if recipe is not None and recipe.model.dtype != "auto":
        return recipe.model.dtype
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")
