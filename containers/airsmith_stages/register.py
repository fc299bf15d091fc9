"""Stage `register`: the tuned model becomes a version in the registry, with a card, and perhaps its champion."""

from __future__ import annotations

import logging

from airsmith.artifacts.layout import model_version_folder
from airsmith.artifacts.manifest import Metric
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.stages import ArtifactType
from airsmith.registry import (
    CARD_FILE,
    ModelVersion,
    ModelVersionDraft,
    get_champion,
    get_version,
    promote,
    register_version,
)
from airsmith_stages.frame import StageContext
from airsmith_stages.model_card import model_card

log = logging.getLogger("airsmith")


def run(context: StageContext) -> Output:
    """Register the merged model with all that it came from."""
    store, name = context.run.store, context.spec.recipe.name
    version = register_version(store, name, _draft(context))
    folder = model_version_folder(name, version.version)
    store.write(f"{folder}/{CARD_FILE}", model_card(version, context.spec).encode())
    _promote_if_better(store, version)
    log.info("Registered %s/%s", store.uri, folder)
    return Output(
        ArtifactType.MODEL_VERSION,
        context.wanted.digest,
        folder,
        found=True,
        properties={"version": str(version.version)},
        metrics=dict(version.metrics),
    )


def _draft(context: StageContext) -> ModelVersionDraft:
    recipe, pointers = context.spec.recipe, context.pointers
    trained = pointers["train"]
    return ModelVersionDraft(
        digest=context.wanted.digest,
        model=pointers["merge"].location,
        adapter=trained.location if trained.type == ArtifactType.ADAPTER else None,
        base_model=pointers["mirror_model"].location,
        base={"id": recipe.model.id, "revision": recipe.model.revision},
        evaluation=pointers["evaluate"].location,
        recipe_digest=recipe_digest(recipe),
        metrics=pointers["evaluate"].metrics,
        versions=context.input("merge").manifest.versions,
    )


def _promote_if_better(store: Store, version: ModelVersion) -> None:
    """A model's first version is its champion; a later one if it is at least as good in both measures."""
    champion = get_champion(store, version.name)
    if champion is None:
        promote(store, version.name, version.version, "the first version")
        return
    if champion.version == version.version:
        return
    incumbent = get_version(store, version.name, champion.version)
    if _at_least(version, incumbent, "exact_match_tuned") and _at_least(incumbent, version, "loss_tuned"):
        promote(store, version.name, version.version, f"no worse than version {incumbent.version} in match and loss")
    else:
        log.info("Version %d stays the champion of %s", incumbent.version, version.name)


def _at_least(one: ModelVersion, other: ModelVersion, metric: str) -> bool:
    return _number(one.metrics.get(metric)) >= _number(other.metrics.get(metric))


def _number(value: Metric) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
