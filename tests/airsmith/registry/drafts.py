"""Versions that wait for their number."""

from __future__ import annotations

from airsmith.registry import ModelVersionDraft

RACERS = 6
"""Who do the same thing at the same time."""


def draft(digest: str = "d", **fields: object) -> ModelVersionDraft:
    known = {"model": "artifacts/model/m", "base_model": "artifacts/base_model/b", "base": {"id": "b"}}
    return ModelVersionDraft.model_validate({"digest": digest, "recipe_digest": "r", **known, **fields})
