"""Digests that address artifacts and checkpoints. Airflow and the pods both compute them here, so that they agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from airsmith.contracts.graphs import graph_determinants
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import IGNORED_FIELDS, Input, StageContract, toolchain_for
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.dotted_keys import flatten

_PLACEMENT_FIELDS = ("backend.devices", "backend.nodes", "backend.instance_type")


def canonical_digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_digest(recipe: Recipe) -> str:
    """Digest of the resolved recipe without `sweep`, which only searches for values of other fields."""
    return canonical_digest(recipe.model_dump(mode="json", exclude={"sweep"}))


def stage_digest(contract: StageContract, spec: RunSpec, pointers: Mapping[str, StagePointer]) -> str:
    """Digest of a stage's output.

    :param pointers: pointers of the upstream stages by stage name.
    :raises AirsmithError: `not_found`, naming the stage whose output is missing.
    """
    determinants = _determinants(contract, spec, pointers, ignored=IGNORED_FIELDS.get(contract.name, ()))
    if contract.name == "train" and spec.stop_at_step is not None:
        determinants["stop_at_step"] = spec.stop_at_step
    if contract.name == "compile":
        determinants["graphs"] = graph_determinants(spec)
    if contract.name == "compare_trials":
        determinants["trials"] = [trial.model_dump(mode="json") for trial in spec.trials]
    return canonical_digest(determinants)


def checkpoint_key(contract: StageContract, spec: RunSpec, pointers: Mapping[str, StagePointer]) -> str:
    """Digest of everything that determines the weights at a step: the stage's digest without the placement fields.

    A partial compile cache has the digest of the complete one.
    """
    if contract.name == "compile":
        return stage_digest(contract, spec, pointers)
    ignored = IGNORED_FIELDS.get(contract.name, ()) + _PLACEMENT_FIELDS
    determinants = _determinants(contract, spec, pointers, ignored)
    model_parallel = [spec.plan.parallel.tensor, spec.plan.parallel.pipeline]
    if model_parallel != [1, 1]:  # A checkpoint that is split across processes loads only into the same split.
        determinants["parallel"] = model_parallel
    return canonical_digest(determinants)


def _determinants(
    contract: StageContract, spec: RunSpec, pointers: Mapping[str, StagePointer], ignored: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "stage": contract.name,
        "version": contract.version,
        "fields": _selected_fields(contract.recipe_fields, spec.recipe, ignored),
        "inputs": {
            source.stage: _input_digest(contract, source, pointers)
            for source in contract.inputs_in(spec.plan.names())
            if source.affects_digest
        },
        "toolchain": {
            name: spec.toolchain_version(contract.name, name) for name in toolchain_for(contract, spec.recipe)
        },
    }


def _selected_fields(paths: tuple[str, ...], recipe: Recipe, ignored: tuple[str, ...]) -> dict[str, Any]:
    flat = flatten(recipe.model_dump(mode="json"))
    return {
        path: value
        for path, value in flat.items()
        if any(_is_under(path, declared) for declared in paths) and not any(_is_under(path, field) for field in ignored)
    }


def _is_under(path: str, declared: str) -> bool:
    return path == declared or path.startswith(f"{declared}.")


def _input_digest(contract: StageContract, source: Input, pointers: Mapping[str, StagePointer]) -> str:
    pointer = pointers.get(source.stage)
    if pointer is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Stage {contract.name} needs the output of {source.stage}, which this run does not have.",
            f"Run {source.stage} first.",
        )
    # An output of an older version may lack the property; then its whole digest counts.
    return pointer.properties.get(source.property, pointer.digest)
