"""Models that endpoints on a cluster serve."""

from __future__ import annotations

from typing import Any

from airsmith.serving.cluster.served_model import ServedAdapter, ServedModel
from tests.support.recipes import new_recipe

ADAPTERS = (
    ServedAdapter("ticket-triage", "artifacts/adapter/aaaa", rank=16),
    ServedAdapter("summaries", "artifacts/adapter/bbbb", rank=24),
)


def served_model(*, adapters: tuple[ServedAdapter, ...] = (), **recipe: Any) -> ServedModel:
    """A revision of the endpoint `triage`.

    :param recipe: sections of the recipe that trained the model.
    """
    return ServedModel(
        endpoint="triage",
        revision="0f1e2d3c-0000-4000-8000-000000000000",
        artifact="artifacts/model/cccc",
        files="artifacts/model/cccc/attempt=1",
        dtype="bfloat16",
        version=None if adapters else 7,
        recipe=new_recipe(**{"name": "ticket-triage", **recipe}),
        adapters=adapters,
        run="manual-0badcafe",
        config="d" * 64,
    )
