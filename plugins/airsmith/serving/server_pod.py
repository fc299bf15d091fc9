"""The pod that serves a model in a cluster, from what is to be served and the settings alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airsmith.backends import get_backend
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.runtimes.pod_labels import object_name
from airsmith.serving.engines import engine_arguments
from airsmith.settings import Settings

PORT = 8000
MODEL_FOLDER = "/scratch/model"
ADAPTERS_FOLDER = "/scratch/adapters"
LOAD_SECONDS = 600
"""Longest time that a server may take to fetch and load its model on plain CPUs; large models have more."""
DRAIN_SECONDS = 60
"""Longest time that a request in flight has to end once its server is told to stop."""
DEREGISTRATION_SECONDS = 5
"""Time that the cluster has to send new requests elsewhere before a server begins to end."""
API_KEY = "API_KEY"
"""Key of the settings' Secret."""

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Sizes that vLLM makes room for (`vllm.config.lora.MaxLoRARanks`)."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter beside its base.

    :param name: what requests name as their model.
    :param artifact: its path in the store.
    :param rank: the highest of its LoRA matrices.
    """

    name: str
    artifact: str
    rank: int


@dataclass(frozen=True)
class ServedModel:
    """One start of a server.

    :param endpoint: name of the endpoint.
    :param deployment: unique id of this start.
    :param artifact: path in the store of the model; where adapters are served, of their base.
    :param dtype: of the weights; vLLM's own choice would round float32 to half of it.
    :param version: in the registry, where it is registered.
    :param adapters: beside the base; none where the model is merged.
    :param run: name of the run's folder, for its labels.
    """

    endpoint: str
    deployment: str
    artifact: str
    dtype: str
    version: int | None
    recipe: Recipe
    adapters: tuple[ServedAdapter, ...] = ()
    run: str = ""

    @property
    def has_devices(self) -> bool:
        """Whether its server asks for accelerators."""
        return get_backend(self.recipe.backend.name).has_devices

    @property
    def object_name(self) -> str:
        """Name of its Deployment: another for every start, so that the old one goes on beside the new."""
        return deployment_name(self.endpoint, self.deployment)

    @property
    def model_name(self) -> str:
        """What requests name: the endpoint, which is one model; of several adapters, the recipe's own."""
        return self.recipe.name if self.adapters else self.endpoint

    @property
    def load_seconds(self) -> int:
        """Longest time that it may take to fetch and load."""
        return LOAD_SECONDS * (3 if self.has_devices else 1)


def deployment_name(endpoint: str, deployment: str) -> str:
    """Name of the object that runs one start of an endpoint's server."""
    return object_name(endpoint[:40], deployment[:8])


def api_key_of(recipe: Recipe, settings: Settings) -> str | None:
    """Secret and key, `name/key`, of what requests must carry: the recipe's, else the deployment's.

    :raises AirsmithError: `bad_recipe` where the recipe names no Secret, which alone reaches a pod.
    """
    reference = recipe.secrets.api_key
    if reference is None:
        secret = settings.kubernetes.api_key_secret
        return f"{secret}/{API_KEY}" if secret is not None else None
    if reference.kubernetes_secret is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "secrets.api_key names an Airflow connection or a variable of the worker, which a pod cannot read.",
            "Put the key into a Secret of the pods' namespace and name it: secrets.api_key.kubernetes_secret.",
        )
    return reference.kubernetes_secret


def pod_spec(model: ServedModel, settings: Settings) -> Manifest:
    """The pod: it fetches the model, then serves it with vLLM.

    :raises AirsmithError: `not_found` where the settings lack the image, `bad_recipe` where vLLM cannot do as asked.
    """
    kubernetes = settings.kubernetes
    backend = get_backend(model.recipe.backend.name)
    chosen = settings.backend(backend.name)
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in chosen.tolerations]
    if backend.has_devices and backend.devices_are_tainted:
        tolerations.append({"key": backend.device_resource, "operator": "Exists", "effect": "NoSchedule"})
    return {
        "serviceAccountName": kubernetes.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": name} for name in kubernetes.image_pull_secrets],
        "nodeSelector": dict(chosen.node_selector),
        "tolerations": tolerations,
        "terminationGracePeriodSeconds": DEREGISTRATION_SECONDS + DRAIN_SECONDS + 15,
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
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": backend.serve_size.shared_memory}},
        ],
    }


def _fetcher(model: ServedModel, settings: Settings) -> Manifest:
    """What brings the weights to the pod's disk, each file verified, before the server starts."""
    secret = settings.kubernetes.store_secret
    copies = [model.artifact, MODEL_FOLDER]
    for adapter in model.adapters:
        copies += [adapter.artifact, f"{ADAPTERS_FOLDER}/{adapter.name}"]
    return {
        **_container(model, settings, settings.kubernetes.environment),
        "name": "fetch",
        "command": ["python", "-m", "airsmith.serving.fetch", settings.store, *copies],
        "envFrom": [{"secretRef": {"name": secret}}] if secret else [],
        "resources": {
            "requests": {"cpu": "200m", "memory": "512Mi", "ephemeral-storage": settings.kubernetes.scratch_size},
            "limits": {"memory": "2Gi"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _server(model: ServedModel, settings: Settings) -> Manifest:
    """vLLM as the container's first process, so that it hears SIGTERM and ends its requests in order."""
    backend = get_backend(model.recipe.backend.name)
    offered = {backend.device_resource: str(model.recipe.backend.devices)} if backend.device_resource else {}
    size = backend.serve_size
    health = {"httpGet": {"path": "/health", "port": PORT}}
    return {
        **_container(model, settings, backend.serve_environment, _key_variable(model, settings)),
        "name": "vllm",
        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "args": _arguments(model),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {
            "requests": {
                "cpu": size.cpu,
                "memory": size.memory,
                "ephemeral-storage": settings.kubernetes.scratch_size,
                **offered,
            },
            "limits": {"memory": size.memory, **offered},
        },
        "startupProbe": {**health, "periodSeconds": 2, "failureThreshold": model.load_seconds // 2},
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {**health, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": DEREGISTRATION_SECONDS}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _arguments(model: ServedModel) -> list[str]:
    """vLLM's command line; the recipe's own arguments come last and so win over the backend's."""
    recipe = model.recipe
    backend = get_backend(recipe.backend.name)
    template = recipe.dataset.chat_template
    name = f"{model.endpoint}-base" if model.adapters else model.endpoint
    return [
        *("--model", MODEL_FOLDER, "--served-model-name", name),
        *("--host", "0.0.0.0", "--port", str(PORT), "--dtype", model.dtype),
        *("--shutdown-timeout", str(DRAIN_SECONDS)),
        *backend.serve_arguments,
        *(["--tensor-parallel-size", str(recipe.backend.devices)] if backend.has_devices else []),
        *(["--trust-remote-code"] if recipe.model.trust_remote_code else []),
        *(_lora_arguments(model.adapters) if model.adapters else []),
        *(["--chat-template", template] if model.adapters and template else []),
        *engine_arguments(recipe.serve.engine_args),
    ]  # fmt: skip


def _lora_arguments(adapters: tuple[ServedAdapter, ...]) -> list[str]:
    """What loads adapters beside their base.

    :raises AirsmithError: `bad_recipe` where vLLM has no room for an adapter's rank.
    """
    highest = max(adapters, key=lambda adapter: adapter.rank)
    room = next((rank for rank in _LORA_RANKS if rank >= highest.rank), None)
    if room is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Adapter {highest.name} has rank {highest.rank}, but vLLM serves adapters of at most {_LORA_RANKS[-1]}.",
            "Set serve.mode to 'merged', or train with a lower method.r.",
        )
    return [
        *("--enable-lora", "--max-loras", str(min(len(adapters), 8)), "--max-cpu-loras", str(len(adapters))),
        *("--max-lora-rank", str(room), "--lora-modules"),
        *(json.dumps({"name": adapter.name, "path": f"{ADAPTERS_FOLDER}/{adapter.name}"}) for adapter in adapters),
    ]


def _key_variable(model: ServedModel, settings: Settings) -> list[Manifest]:
    """The variable from which vLLM takes the key that requests must carry."""
    reference = api_key_of(model.recipe, settings)
    if reference is None:
        return []
    name, key = reference.split("/")
    return [{"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]


def _container(
    model: ServedModel, settings: Settings, environment: Mapping[str, str], secret_variables: Sequence[Manifest] = ()
) -> Manifest:
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
        "env": [*({"name": name, "value": value} for name, value in plain.items()), *secret_variables],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
