"""The objects of an endpoint in a cluster, from what is served, the settings, and the kinds that the cluster has."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from airsmith.cluster.labels import PREFIX, object_name, pod_labels
from airsmith.cluster.manifest import OPTIONAL_KINDS, Manifest
from airsmith.contracts.digests import canonical_digest
from airsmith.serving.cluster.containers import PORT
from airsmith.serving.cluster.served import ServedModel
from airsmith.serving.cluster.server_pod import pod_spec
from airsmith.settings import Settings

WAITING_METRIC = "vllm:num_requests_waiting"
"""What vLLM exports, and endpoints scale by."""
WAITING_PER_SERVER = 4
BUSY_PERCENT = 80


def service_name(endpoint: str) -> str:
    """Name of an endpoint's Service: it stays when what is served changes."""
    return object_name(endpoint)


def address(endpoint: str, namespace: str) -> str:
    """Where an endpoint answers, inside the cluster."""
    return f"http://{service_name(endpoint)}.{namespace}:{PORT}"


def deployment(model: ServedModel, settings: Settings, *, scales_itself: bool = False) -> Manifest:
    """The Deployment of one start of an endpoint's server.

    :param scales_itself: whether an autoscaler decides how many servers there are.
    """
    labels = labels_of(model, settings)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": model.object_name, "namespace": settings.kubernetes.namespace, "labels": labels},
        "spec": {
            **({} if scales_itself else {"replicas": model.recipe.serve.replicas}),
            "selector": {"matchLabels": pod_labels(deployment=model.deployment)},
            "progressDeadlineSeconds": model.load_seconds,
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(model, settings)},
        },
    }


def labels_of(model: ServedModel, settings: Settings) -> dict[str, str]:
    """What marks the objects of one start of a server."""
    return pod_labels(
        endpoint=model.endpoint,
        deployment=model.deployment,
        version=str(model.version or ""),
        recipe=model.recipe.name,
        run=model.run,
        team=settings.team,
    )


def configuration_of(model: ServedModel, settings: Settings) -> str:
    """Digest of all that decides how a model is served: what serves it so already need not be started anew."""
    serve = model.recipe.serve
    return canonical_digest(
        {"pod": pod_spec(model, settings), "replicas": serve.replicas, "max_replicas": serve.max_replicas}
    )


def service(endpoint: str, deployment: str | None, settings: Settings) -> Manifest:
    """The Service of an endpoint.

    :param deployment: the one start of a server that requests go to; None lets all that run take their share.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _endpoint_metadata(endpoint, settings),
        "spec": {
            "selector": pod_labels(endpoint=endpoint, deployment=deployment or ""),
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        },
    }


def backend_service(model: ServedModel, settings: Settings) -> Manifest:
    """A Service of one start of a server alone: what a route's weights choose between."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": model.object_name,
            "namespace": settings.kubernetes.namespace,
            "labels": labels_of(model, settings),
        },
        "spec": {
            "selector": pod_labels(deployment=model.deployment),
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        },
    }


def route(endpoint: str, weights: Mapping[str, int], settings: Settings) -> Manifest:
    """The way from the settings' Gateway to an endpoint.

    :param weights: of the Services that share the requests, by name.
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


def guards(endpoint: str, settings: Settings, kinds: Collection[str]) -> list[Manifest]:
    """What watches over an endpoint whatever it serves: servers are evicted one by one, and Prometheus reads them."""
    metadata = _endpoint_metadata(endpoint, settings)
    monitor_labels = {**metadata["labels"], **settings.kubernetes.monitor_labels}
    selector = {"matchLabels": pod_labels(endpoint=endpoint)}
    # Of the Services with this label the one that stays: a deployment's own would have its servers read twice.
    staying = [{"key": f"{PREFIX}deployment", "operator": "DoesNotExist"}]
    wanted: list[Manifest] = [
        {
            "apiVersion": OPTIONAL_KINDS["PodDisruptionBudget"],
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            # Not minAvailable: a single server would keep its node from ever being drained.
            "spec": {"maxUnavailable": 1, "selector": selector},
        },
        {
            "apiVersion": OPTIONAL_KINDS["ServiceMonitor"],
            "kind": "ServiceMonitor",
            "metadata": {**metadata, "labels": monitor_labels},
            "spec": {
                "selector": {
                    **selector,
                    "matchExpressions": staying,
                },
                "endpoints": [{"port": "http", "path": "/metrics"}],
            },
        },
    ]
    return [manifest for manifest in wanted if manifest["kind"] in kinds]


def autoscaler(model: ServedModel, settings: Settings, kinds: Collection[str]) -> Manifest | None:
    """What changes the number of servers: by waiting requests with KEDA and Prometheus, on plain CPUs by their load.

    None where the recipe wants no more than `serve.replicas`, or the cluster has nothing that could see the need.
    """
    serve = model.recipe.serve
    if serve.max_replicas is None or serve.max_replicas == serve.replicas:
        return None
    metadata = {
        "name": model.object_name,
        "namespace": settings.kubernetes.namespace,
        "labels": labels_of(model, settings),
    }
    if "ScaledObject" in kinds and settings.kubernetes.prometheus is not None:
        return {
            "apiVersion": OPTIONAL_KINDS["ScaledObject"],
            "kind": "ScaledObject",
            "metadata": metadata,
            "spec": _scaled_by_waiting(model, settings, serve.replicas, serve.max_replicas),
        }
    if "PodMetrics" in kinds and not model.has_devices:
        return {
            "apiVersion": OPTIONAL_KINDS["HorizontalPodAutoscaler"],
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata,
            "spec": _scaled_by_load(model, serve.replicas, serve.max_replicas),
        }
    return None


def _scaled_by_waiting(model: ServedModel, settings: Settings, least: int, most: int) -> Manifest:
    pods = f'namespace="{settings.kubernetes.namespace}",pod=~"{model.object_name}-.*"'
    return {
        "scaleTargetRef": {"name": model.object_name},
        "minReplicaCount": least,
        "maxReplicaCount": most,
        "cooldownPeriod": 300,
        "triggers": [
            {
                "type": "prometheus",
                "metadata": {
                    "serverAddress": settings.kubernetes.prometheus,
                    "query": f"sum({WAITING_METRIC}{{{pods}}})",
                    "threshold": str(WAITING_PER_SERVER),
                },
            }
        ],
    }


def _scaled_by_load(model: ServedModel, least: int, most: int) -> Manifest:
    target = {"type": "Utilization", "averageUtilization": BUSY_PERCENT}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": model.object_name},
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }


def _endpoint_metadata(endpoint: str, settings: Settings) -> Manifest:
    labels = pod_labels(endpoint=endpoint, team=settings.team)
    return {"name": service_name(endpoint), "namespace": settings.kubernetes.namespace, "labels": labels}
