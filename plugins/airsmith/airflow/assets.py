"""Airflow assets: what Airflow shows of datasets and models. They mirror the registry and decide nothing."""

from __future__ import annotations

from airflow.sdk import Asset

from airsmith.recipe import Recipe
from airsmith.recipe.sources import source_kind
from airsmith.settings import Settings


def model_asset(recipe: Recipe, settings: Settings) -> Asset:
    """The tuned model as Airflow shows it: a mirror of the registry that decides nothing."""
    return Asset(name=f"model/{recipe.name}", uri=f"{settings.store.rstrip('/')}/models/{recipe.name}", group="model")


def dataset_asset(recipe: Recipe) -> Asset:
    """The dataset as Airflow shows it; updated from outside only."""
    source = recipe.dataset.id
    uri = source if source_kind(source) == "store" else f"hf://datasets/{source}"
    return Asset(name=f"dataset/{source.split('://')[-1].strip('/')}", uri=uri, group="dataset")
