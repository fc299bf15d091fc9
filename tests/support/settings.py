"""Settings of a deployment on Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airsmith.settings import Image, Settings

CLUSTER_IMAGES = {
    name: Image(reference=f"registry.example/{name}@sha256:{'0' * 64}")
    for name in (
        "cpu", "train-cpu", "train-cuda", "train-rocm", "train-neuron-xla", "train-neuron-native",
        "vllm-cpu", "vllm-cuda", "vllm-rocm", "vllm-neuron", "vllm-optimum-neuron",
    )
}  # fmt: skip


def cluster_settings(*, backends: Mapping[str, Any] = {}, **kubernetes: Any) -> Settings:
    """Settings with every image.

    :param kubernetes: replace the fields of the same name in the section `kubernetes`.
    """
    known = {
        "images": CLUSTER_IMAGES,
        "environment": {"AWS_ENDPOINT_URL": "http://minio.storage:9000", "AWS_REGION": "us-east-1"},
        "store_secret": "store",
        "image_pull_secrets": ("registry",),
    }
    return Settings.model_validate(
        {
            "runtime": "kubernetes",
            "store": "s3://bucket/prefix",
            "hub_endpoint": "https://huggingface.co",
            "team": "nlp",
            "kubernetes": {**known, **kubernetes},
            "backends": backends,
        }
    )
