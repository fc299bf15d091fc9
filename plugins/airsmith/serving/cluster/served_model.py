"""What a run's endpoint serves: the merged model, or the base with the run's adapter and those there already."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.backends.servers import check_parts, server_of
from airsmith.contracts.digests import canonical_digest
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.registry import Endpoint
from airsmith.serving.cluster.served import ServedAdapter, ServedModel

MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"


def model_to_serve(run: Run, current: Endpoint | None) -> ServedModel:
    """What a run's endpoint is to serve, as a new start of a server.

    :param current: what the endpoint serves now; other recipes' adapters on the same base stay.
    :raises AirsmithError: `not_found` where the run has not come so far; `bad_recipe` where the recipe asks for an
        engine that no cluster has, the endpoint serves adapters of another base, or the model has no such parts.
    """
    recipe = run.read_spec().recipe
    if recipe.serve.engine == "transformers":
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "serve.engine is 'transformers', but endpoints in a cluster are served by vLLM.",
            "Set serve.engine to 'auto' or 'vllm'.",
        )
    server = server_of(recipe)
    adapters = _adapters(run, recipe, current) if recipe.serve.mode == "adapter" else ()
    served = _output_of("mirror_model" if adapters else "merge", run)
    config = json.loads(served.read(MODEL_CONFIG))
    check_parts(config, server)
    registered = run.pointer("register")
    return ServedModel(
        endpoint=recipe.endpoint_name,
        deployment=str(uuid.uuid4()),
        artifact=served.folder,
        files=f"{served.folder}/{served.manifest.content_root}",
        dtype=_dtype(config, recipe if adapters else None),
        version=int(registered.properties["version"]) if registered is not None else None,
        recipe=recipe,
        adapters=adapters,
        run=run.path.rsplit("/", 1)[-1],
        config=canonical_digest(config),
    )


def _adapters(run: Run, recipe: Recipe, current: Endpoint | None) -> tuple[ServedAdapter, ...]:
    """The run's adapter, and before it the endpoint's others."""
    own = _output_of(run.read_spec().plan.trained_by, run)
    if own.type != ArtifactType.ADAPTER:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.mode is 'adapter', but {own.uri} is a {own.type}.",
            "Set serve.mode to 'merged'.",
        )
    others = {name: path for name, path in (current.adapters if current else {}).items() if name != recipe.name}
    base = _output_of("mirror_model", run).folder
    if current is not None and others and current.model_uri != base:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Endpoint {current.name} serves {', '.join(sorted(others))} on {current.model_uri}, "
            f"which is not the base of {recipe.name}, {base}.",
            "Give serve.name another endpoint, or train on the same revision of the base.",
        )
    paths = {**others, recipe.name: own.folder}
    return tuple(ServedAdapter(name, path, _rank(_opened(run.store, path))) for name, path in paths.items())


def _output_of(stage: str, run: Run) -> Artifact:
    pointer = run.pointer(stage)
    if pointer is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"Stage deploy needs the output of {stage}, which this run does not have."
        )
    return _opened(run.store, pointer.location)


def _opened(store: Store, path: str) -> Artifact:
    artifact = open_artifact(store, path)
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"{store.uri}/{path} is not in the store any more.", "Clear the stage that makes it."
        )
    return artifact


def _rank(adapter: Artifact) -> int:
    """The highest rank of an adapter's matrices, for which the server makes room."""
    config: dict[str, Any] = json.loads(adapter.read(ADAPTER_CONFIG))
    return max(int(config["r"]), *(int(rank) for rank in (config.get("rank_pattern") or {}).values()), 1)


def _dtype(config: Mapping[str, Any], recipe: Recipe | None) -> str:
    """Type of the weights: the recipe's for a base, which it casts; else that of the files."""
    if recipe is not None and recipe.model.dtype != "auto":
        return recipe.model.dtype
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")
