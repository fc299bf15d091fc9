"""Records of the registry: drafts of model versions, and endpoints' revisions."""

from __future__ import annotations

from typing import Any

from airsmith.registry import ModelVersionDraft, Revision

CONCURRENT_WRITERS = 6


def version_draft(digest: str = "d", **fields: Any) -> ModelVersionDraft:
    known = {"model": "artifacts/model/m", "base_model": "artifacts/base_model/b", "base": {"id": "b"}}
    return ModelVersionDraft.model_validate({"digest": digest, "recipe_digest": "r", **known, **fields})


def new_revision(name: str = "tiny", model: str = "artifacts/model/m", **fields: Any) -> Revision:
    """What an endpoint serves.

    :param name: under which clients ask for the model.
    :param model: folder of the served artifact.
    """
    known = {"engine": "vllm", "address": "http://127.0.0.1:9", "model_name": name, "model_uri": model}
    return Revision.model_validate({**known, "id": f"{name}-{model[-8:]}", **fields})
