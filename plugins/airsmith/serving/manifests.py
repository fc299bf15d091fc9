"""The objects of an endpoint in a cluster, from what is to be served and the settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airsmith.backends import get_backend
from airsmith.recipe import Recipe
from airsmith.runtimes.pod_labels import object_name, pod_labels
from airsmith.settings import Settings

PORT = 8000
MODEL_FOLDER = "/scratch/model"
START_SECONDS = 600
"""Longest time that a server may take to load its model."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ServedModel:
    """One start of a server.

    :param endpoint: name of the endpoint; requests name it as their model.
    :param deployment: unique id of this start.
    :param artifact: the model's path in the store.
    :param dtype: of the weights; vLLM's own choice would round float32 to half of it.
    :param version: in the registry, where it is registered.
    """

    endpoint: str
    deployment: str
    artifact: str
    dtype: str
    version: int | None
    recipe: Recipe

    @property
    def object_name(self) -> str:
        """Name of its Deployment: another for every start, so that the old one goes on beside the new."""
        return object_name(self.endpoint[:40], self.deployment[:8])


def service_name(endpoint: str) -> str:
    """Name of an endpoint's Service: it stays when what is served changes."""
    return object_name(endpoint)


def address(endpoint: str, namespace: str) -> str:
    """Where an endpoint answers, inside the cluster."""
    return f"http://{service_name(endpoint)}.{namespace}:{PORT}"


def service(endpoint: str, deployment: str, settings: Settings) -> Manifest:
    """The Service of an endpoint, which sends requests to one deployment."""
    labels = pod_labels(endpoint=endpoint, team=settings.team)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service_name(endpoint), "namespace": settings.kubernetes.namespace, "labels": labels},
        "spec": {
            "selector": pod_labels(endpoint=endpoint, deployment=deployment),
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        },
    }


def deployment(model: ServedModel, settings: Settings) -> Manifest:
    """The Deployment that fetches the model and serves it with vLLM."""
    labels = pod_labels(
        endpoint=model.endpoint,
        deployment=model.deployment,
        version=str(model.version or ""),
        recipe=model.recipe.name,
        team=settings.team,
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": model.object_name, "namespace": settings.kubernetes.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": pod_labels(deployment=model.deployment)},
            "progressDeadlineSeconds": START_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(model, settings)},
        },
    }


def _pod_spec(model: ServedModel, settings: Settings) -> Manifest:
    kubernetes = settings.kubernetes
    backend = settings.backend(model.recipe.backend.name)
    device = get_backend(model.recipe.backend.name).device_resource
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in backend.tolerations]
    if device is not None:
        tolerations.append({"key": device, "operator": "Exists", "effect": "NoSchedule"})
    return {
        "serviceAccountName": kubernetes.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": name} for name in kubernetes.image_pull_secrets],
        "nodeSelector": dict(backend.node_selector),
        "tolerations": tolerations,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_fetcher(model, settings)],
        "containers": [_server(model, settings)],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    }


def _fetcher(model: ServedModel, settings: Settings) -> Manifest:
    secret = settings.kubernetes.store_secret
    return {
        **_container(model, settings, settings.kubernetes.environment),
        "name": "fetch",
        "command": ["python", "-m", "airsmith.serving.fetch", settings.store, model.artifact, MODEL_FOLDER],
        "envFrom": [{"secretRef": {"name": secret}}] if secret else [],
        "resources": {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    }


def _server(model: ServedModel, settings: Settings) -> Manifest:
    """vLLM as the container's first process, so that it hears SIGTERM and ends its requests in order."""
    backend = get_backend(model.recipe.backend.name)
    devices = model.recipe.backend.devices
    offered = {backend.device_resource: str(devices)} if backend.device_resource is not None else {}
    size = backend.serve_size
    health = {"httpGet": {"path": "/health", "port": PORT}}
    return {
        **_container(model, settings, backend.serve_environment),
        "name": "vllm",
        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "args": [
            *("--model", MODEL_FOLDER, "--served-model-name", model.endpoint),
            *("--host", "0.0.0.0", "--port", str(PORT), "--dtype", model.dtype),
            *backend.serve_arguments,
            *(["--tensor-parallel-size", str(devices)] if offered else []),
            *(["--trust-remote-code"] if model.recipe.model.trust_remote_code else []),
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {
            "requests": {"cpu": size.cpu, "memory": size.memory, **offered},
            "limits": {"memory": size.memory, **offered},
        },
        "startupProbe": {**health, "periodSeconds": 2, "failureThreshold": START_SECONDS // 2},
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {**health, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def _container(model: ServedModel, settings: Settings, environment: Mapping[str, str]) -> Manifest:
    """What both containers have: image, rights, scratch disk, and no way out to the Hub."""
    plain = {
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "HF_HOME": "/scratch/huggingface",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **environment,
    }
    return {
        "image": settings.image(get_backend(model.recipe.backend.name).serve_image).reference,
        "env": [{"name": name, "value": value} for name, value in plain.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
