"""Stage `register`: register the tuned model as a version with a model card, and promote it if it is no worse."""

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
from airsmith_stages.model_card import UNKNOWN_LICENSE, Provenance, license_of, model_card
from airsmith_stages.stage_context import StageContext

log = logging.getLogger("airsmith")


def run(context: StageContext) -> Output:
    """Register the merged model with its provenance.

    The model card is written last: a version without it is incomplete, and registering it again completes it.
    """
    store, name = context.run.store, context.spec.recipe.name
    version = register_version(store, name, _draft(context))
    _promote_if_no_worse(store, version)
    folder = model_version_folder(name, version.version)
    store.write(f"{folder}/{CARD_FILE}", model_card(version, context.spec, _provenance(context)).encode())
    log.info("Registered %s/%s", store.uri, folder)
    return Output(
        ArtifactType.MODEL_VERSION,
        context.output.digest,
        folder,
        found=True,
        properties={"version": str(version.version)},
        metrics=dict(version.metrics),
    )


def _draft(context: StageContext) -> ModelVersionDraft:
    recipe, pointers = context.spec.recipe, context.pointers
    trained = pointers[context.spec.plan.training_output_stage]
    return ModelVersionDraft(
        digest=context.output.digest,
        model=pointers["merge"].location,
        adapter=trained.location if trained.type == ArtifactType.ADAPTER else None,
        base_model=pointers["mirror_model"].location,
        base={"id": recipe.model.id, "revision": recipe.model.revision},
        evaluation=pointers["evaluate"].location,
        recipe_digest=recipe_digest(recipe),
        metrics=pointers["evaluate"].metrics,
        versions=context.input("merge").manifest.versions,
        run=context.run.path,
    )


def _provenance(context: StageContext) -> Provenance:
    base, model = context.input("mirror_model"), context.input("merge")
    return Provenance(
        dataset_digest=context.input("tokenize").manifest.inputs["mirror_dataset"],
        base_license=license_of(base.read(CARD_FILE).decode()) if CARD_FILE in base.names() else UNKNOWN_LICENSE,
        weights_uri=f"{model.uri}/{model.manifest.content_root}",
        warm_restarts=int(context.pointers["train"].metrics.get("warm_restarts") or 0),
    )


def _promote_if_no_worse(store: Store, version: ModelVersion) -> None:
    """Promote the first version, and a later one if it is at least as good as the champion in both metrics."""
    champion = get_champion(store, version.name)
    if champion is None:
        promote(store, version.name, version.version, "the first version")
        return
    if champion.version == version.version:
        return
    incumbent = get_version(store, version.name, champion.version)
    comparison = (
        f"exact match {_formatted(version, 'exact_match_tuned')} against {_formatted(incumbent, 'exact_match_tuned')}, "
        f"loss {_formatted(version, 'loss_tuned')} against {_formatted(incumbent, 'loss_tuned')} "
        f"of version {incumbent.version}"
    )
    if _at_least(version, incumbent, "exact_match_tuned") and _at_least(incumbent, version, "loss_tuned"):
        promote(store, version.name, version.version, comparison)
        log.info("Version %d is the champion of %s: %s", version.version, version.name, comparison)
    else:
        log.info("Version %d remains the champion of %s: %s", incumbent.version, version.name, comparison)


def _at_least(one: ModelVersion, other: ModelVersion, metric: str) -> bool:
    return _number(one.metrics.get(metric)) >= _number(other.metrics.get(metric))


def _number(value: Metric) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _formatted(version: ModelVersion, metric: str) -> str:
    return f"{_number(version.metrics.get(metric)):.4g}"
