"""Endpoints of a cluster, by what tells them apart: what is served, and the settings that it is served with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airsmith.recipe import Recipe
from airsmith.serving.cluster.served_model import ServedAdapter, ServedModel
from airsmith.settings import Image, Settings

IMAGES = {
    name: Image(reference=f"registry.example/{name}@sha256:{'0' * 64}")
    for name in ("cpu", "vllm-cpu", "vllm-cuda", "vllm-rocm", "vllm-neuron", "vllm-optimum-neuron")
}
ADAPTERS = (
    ServedAdapter("ticket-triage", "artifacts/adapter/aaaa", rank=16),
    ServedAdapter("summaries", "artifacts/adapter/bbbb", rank=24),
)


def settings_with(*, backends: Mapping[str, Any] = {}, **kubernetes: Any) -> Settings:
    """Settings of a platform, with more or others of the cluster's."""
    known = {
        "images": IMAGES,
        "environment": {"AWS_ENDPOINT_URL": "http://minio.storage:9000", "AWS_REGION": "us-east-1"},
        "store_secret": "store",
        "image_pull_secrets": ("registry",),
    }
    return Settings.model_validate(
        {
            "runtime": "kubernetes",
            "store": "s3://bucket/prefix",
            "team": "nlp",
            "kubernetes": {**known, **kubernetes},
            "backends": backends,
        }
    )


def served_model(*, adapters: tuple[ServedAdapter, ...] = (), **recipe: Any) -> ServedModel:
    """One start of a server of the endpoint `triage`."""
    resolved = Recipe.model_validate(
        {
            "name": "ticket-triage",
            "model": {"id": "a/b"},
            "dataset": {"id": "c/d", "validation_fraction": 0.1},
            **recipe,
        }
    )
    return ServedModel(
        endpoint="triage",
        revision="0f1e2d3c-0000-4000-8000-000000000000",
        artifact="artifacts/model/cccc",
        files="artifacts/model/cccc/attempt=1",
        dtype="bfloat16",
        version=None if adapters else 7,
        recipe=resolved,
        adapters=adapters,
        run="manual-0badcafe",
        config="d" * 64,
    )
