"""Kubernetes objects as plain JSON."""

from __future__ import annotations

from typing import Any

from kubernetes.client import ApiClient

Manifest = dict[str, Any]

OPTIONAL_KINDS = {
    "PodDisruptionBudget": "policy/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodMetrics": "metrics.k8s.io/v1beta1",
    "ScaledObject": "keda.sh/v1alpha1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}
"""Kinds that an endpoint uses where the cluster has them. Without PodMetrics a HorizontalPodAutoscaler is blind."""


def as_manifest(model: object) -> Manifest:
    """A typed object of the Kubernetes client as plain JSON."""
    plain: Manifest = ApiClient().sanitize_for_serialization(model)
    return plain
