"""Airflow assets of datasets and models. They mirror the registry for the UI and decide nothing."""

from __future__ import annotations

from airflow.sdk import Asset

from airsmith.recipe import Recipe
from airsmith.recipe.sources import source_kind
from airsmith.settings import Settings


def model_asset(recipe: Recipe, settings: Settings) -> Asset:
    """The asset of the tuned model, updated when a version is registered."""
    return Asset(name=f"model/{recipe.name}", uri=f"{settings.store.rstrip('/')}/models/{recipe.name}", group="model")


def dataset_asset(recipe: Recipe) -> Asset:
    """The asset of the dataset, updated only from outside."""
    source = recipe.dataset.id
    uri = source if source_kind(source) == "store" else f"hf://datasets/{source}"
    return Asset(name=f"dataset/{source.split('://')[-1].strip('/')}", uri=uri, group="dataset")
