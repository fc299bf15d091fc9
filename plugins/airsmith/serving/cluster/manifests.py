"""Manifests of an endpoint's objects in a cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from airsmith.cluster.labels import PREFIX, object_name, pod_labels
from airsmith.cluster.manifest import OPTIONAL_KINDS, Manifest
from airsmith.contracts.digests import canonical_digest
from airsmith.serving.cluster.containers import PORT
from airsmith.serving.cluster.served_model import ServedModel
from airsmith.serving.cluster.server_pod import pod_spec
from airsmith.settings import Settings

WAITING_METRIC = "vllm:num_requests_waiting"
"""vLLM's metric by which KEDA scales an endpoint."""
MAX_WAITING_PER_REPLICA = 4
TARGET_CPU_PERCENT = 80


def service_name(endpoint: str) -> str:
    """Name of an endpoint's Service; it is the same for all revisions."""
    return object_name(endpoint)


def service_url(name: str, namespace: str) -> str:
    """Base URL of a Service inside the cluster."""
    return f"http://{name}.{namespace}:{PORT}"


def deployment(model: ServedModel, settings: Settings, *, autoscaled: bool = False) -> Manifest:
    """The Deployment of a revision.

    :param autoscaled: whether an autoscaler sets the number of replicas.
    """
    labels = revision_labels(model, settings)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": model.object_name, "namespace": settings.kubernetes.namespace, "labels": labels},
        "spec": {
            **({} if autoscaled else {"replicas": model.recipe.serve.replicas}),
            "selector": {"matchLabels": pod_labels(revision=model.revision)},
            "progressDeadlineSeconds": model.load_seconds,
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(model, settings)},
        },
    }


def revision_labels(model: ServedModel, settings: Settings) -> dict[str, str]:
    """Labels of a revision's objects."""
    return pod_labels(
        endpoint=model.endpoint,
        revision=model.revision,
        version=str(model.version or ""),
        recipe=model.recipe.name,
        run=model.run,
        team=settings.team,
    )


def configuration_digest(model: ServedModel, settings: Settings) -> str:
    """Digest of the pod's specification and the replica counts. A revision with the same digest is reused."""
    serve = model.recipe.serve
    return canonical_digest(
        {"pod": pod_spec(model, settings), "replicas": serve.replicas, "max_replicas": serve.max_replicas}
    )


def service(endpoint: str, revision_id: str | None, settings: Settings) -> Manifest:
    """The Service of an endpoint.

    :param revision_id: the revision whose pods it selects; None selects the pods of all revisions.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _endpoint_metadata(endpoint, settings),
        "spec": {
            "selector": pod_labels(endpoint=endpoint, revision=revision_id or ""),
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        },
    }


def revision_service(model: ServedModel, settings: Settings) -> Manifest:
    """The Service of one revision, which a route refers to with a weight."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": model.object_name,
            "namespace": settings.kubernetes.namespace,
            "labels": revision_labels(model, settings),
        },
        "spec": {
            "selector": pod_labels(revision=model.revision),
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        },
    }


def route(endpoint: str, weights: Mapping[str, int], settings: Settings) -> Manifest:
    """The HTTPRoute from the settings' Gateway to an endpoint.

    :param weights: weights of the revisions' Services, by name.
    """
    namespace, gateway = (settings.kubernetes.gateway or "").split("/")
    prefix = f"/{settings.kubernetes.namespace}/{service_name(endpoint)}"
    return {
        "apiVersion": OPTIONAL_KINDS["HTTPRoute"],
        "kind": "HTTPRoute",
        "metadata": _endpoint_metadata(endpoint, settings),
        "spec": {
            "parentRefs": [{"name": gateway, "namespace": namespace}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": prefix}}],
                    "filters": [
                        {
                            "type": "URLRewrite",
                            "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
                        }
                    ],
                    "backendRefs": [{"name": name, "port": PORT, "weight": share} for name, share in weights.items()],
                }
            ],
        },
    }


def protection(endpoint: str, settings: Settings, kinds: Collection[str]) -> list[Manifest]:
    """The disruption budget, which limits evictions to one pod at a time, and the Prometheus monitor of an endpoint.

    :param kinds: optional kinds that the cluster supports.
    """
    metadata = _endpoint_metadata(endpoint, settings)
    monitor_labels = {**metadata["labels"], **settings.kubernetes.monitor_labels}
    selector = {"matchLabels": pod_labels(endpoint=endpoint)}
    # Selects the endpoint's Service only: with the revisions' Services, Prometheus would scrape each pod twice.
    endpoint_service = [{"key": f"{PREFIX}revision", "operator": "DoesNotExist"}]
    manifests: list[Manifest] = [
        {
            "apiVersion": OPTIONAL_KINDS["PodDisruptionBudget"],
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            # Not minAvailable: a single replica would block every drain of its node.
            "spec": {"maxUnavailable": 1, "selector": selector},
        },
        {
            "apiVersion": OPTIONAL_KINDS["ServiceMonitor"],
            "kind": "ServiceMonitor",
            "metadata": {**metadata, "labels": monitor_labels},
            "spec": {
                "selector": {
                    **selector,
                    "matchExpressions": endpoint_service,
                },
                "endpoints": [{"port": "http", "path": "/metrics"}],
            },
        },
    ]
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def autoscaler(model: ServedModel, settings: Settings, kinds: Collection[str]) -> Manifest | None:
    """The autoscaler of a revision: KEDA by waiting requests, or, on plain CPUs, a HorizontalPodAutoscaler by CPU load.

    None if `serve.max_replicas` does not exceed `serve.replicas`, or the cluster has no source of metrics.
    """
    serve = model.recipe.serve
    if serve.max_replicas is None or serve.max_replicas == serve.replicas:
        return None
    metadata = {
        "name": model.object_name,
        "namespace": settings.kubernetes.namespace,
        "labels": revision_labels(model, settings),
    }
    if "ScaledObject" in kinds and settings.kubernetes.prometheus is not None:
        return {
            "apiVersion": OPTIONAL_KINDS["ScaledObject"],
            "kind": "ScaledObject",
            "metadata": metadata,
            "spec": _waiting_requests_scaler(model, settings, serve.replicas, serve.max_replicas),
        }
    if "PodMetrics" in kinds and not model.has_devices:
        return {
            "apiVersion": OPTIONAL_KINDS["HorizontalPodAutoscaler"],
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata,
            "spec": _cpu_scaler(model, serve.replicas, serve.max_replicas),
        }
    return None


def _waiting_requests_scaler(model: ServedModel, settings: Settings, minimum: int, maximum: int) -> Manifest:
    pods = f'namespace="{settings.kubernetes.namespace}",pod=~"{model.object_name}-.*"'
    return {
        "scaleTargetRef": {"name": model.object_name},
        "minReplicaCount": minimum,
        "maxReplicaCount": maximum,
        "cooldownPeriod": 300,
        "triggers": [
            {
                "type": "prometheus",
                "metadata": {
                    "serverAddress": settings.kubernetes.prometheus,
                    "query": f"sum({WAITING_METRIC}{{{pods}}})",
                    "threshold": str(MAX_WAITING_PER_REPLICA),
                },
            }
        ],
    }


def _cpu_scaler(model: ServedModel, minimum: int, maximum: int) -> Manifest:
    target = {"type": "Utilization", "averageUtilization": TARGET_CPU_PERCENT}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": model.object_name},
        "minReplicas": minimum,
        "maxReplicas": maximum,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }


def _endpoint_metadata(endpoint: str, settings: Settings) -> Manifest:
    labels = pod_labels(endpoint=endpoint, team=settings.team)
    return {"name": service_name(endpoint), "namespace": settings.kubernetes.namespace, "labels": labels}
