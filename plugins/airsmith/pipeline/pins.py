"""Pins the sources of a run: a revision on the Hub to its commit, a folder in a store to its current listing."""

from __future__ import annotations

from collections.abc import Callable

from airsmith.artifacts.listing import listing_digest
from airsmith.artifacts.store import Store
from airsmith.hub import RepoType, pinned_revision
from airsmith.recipe import Recipe
from airsmith.recipe.sources import source_kind
from airsmith.registry import get_version

FindToken = Callable[[], "str | None"]
"""Reads the Hub's token; called only if a source is on the Hub."""


def pin_sources(recipe: Recipe, store: Store, hub_endpoint: str, find_token: FindToken) -> Recipe:
    """The recipe with the revisions of model and dataset replaced by what they resolve to now.

    :raises AirsmithError: `not_found`, `access_denied`, `hub_unavailable` or `store_unavailable`, naming the source.
    """
    kinds = {source_kind(recipe.model.id), source_kind(recipe.dataset.id)}
    token = find_token() if "hub" in kinds else None

    def pinned(repo_type: RepoType, source_id: str, revision: str) -> str:
        kind = source_kind(source_id)
        if kind == "hub":
            return pinned_revision(repo_type, source_id, revision, endpoint=hub_endpoint, token=token)
        if kind == "store":
            return listing_digest(source_id)
        _, name, number = source_id.split("/")
        get_version(store, name, int(number))
        return revision

    model = recipe.model.model_copy(update={"revision": pinned("model", recipe.model.id, recipe.model.revision)})
    dataset = recipe.dataset.model_copy(
        update={"revision": pinned("dataset", recipe.dataset.id, recipe.dataset.revision)}
    )
    return recipe.model_copy(update={"model": model, "dataset": dataset})
