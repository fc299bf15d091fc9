"""The pod that serves a model in a cluster, from what is to be served and the settings alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airsmith.backends import get_backend
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.operation import ADAPTER_RANKS
from airsmith.runtimes.pod_labels import object_name
from airsmith.serving.engines import engine_arguments
from airsmith.settings import Settings

PORT = 8000
SERVER = "vllm"
"""Name of the container that serves."""
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

_ADAPTERS_AT_ONCE = 8
"""Most adapters that one batch may mix: each holds memory on the device."""

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
    :param files: path in the store of the folder with its files.
    :param dtype: of the weights; vLLM's own choice would round float32 to half of it.
    :param version: in the registry, where it is registered.
    :param adapters: beside the base; none where the model is merged.
    :param run: name of the run's folder, for its labels.
    """

    endpoint: str
    deployment: str
    artifact: str
    files: str
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
    def is_streamed(self) -> bool:
        """Whether its weights go from the store into memory, past the pod's disk."""
        return self.recipe.serve.load == "stream"

    @property
    def load_seconds(self) -> int:
        """Longest time that it may take to fetch and load."""
        return LOAD_SECONDS * (3 if self.has_devices else 1)


def deployment_name(endpoint: str, deployment: str) -> str:
    """Name of the object that runs one start of an endpoint's server."""
    return object_name(endpoint[:40], deployment[:8])


def base_name(endpoint: str) -> str:
    """What requests name to be answered by the base that an endpoint serves its adapters on."""
    return f"{endpoint}-base"


def api_key_of(recipe: Recipe, settings: Settings) -> str | None:
    """Secret and key, `name/key`, of what requests must carry: the recipe's, else the deployment's."""
    if recipe.secrets.api_key is not None:
        return recipe.secrets.api_key.kubernetes_secret
    secret = settings.kubernetes.api_key_secret
    return f"{secret}/{API_KEY}" if secret is not None else None


def pod_spec(model: ServedModel, settings: Settings) -> Manifest:
    """The pod: it fetches the model, unless that is streamed, then serves it with vLLM.

    :raises AirsmithError: `not_found` where the settings lack the image, `bad_recipe` where no server can stream from
        the settings' store.
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
        "nodeSelector": {**chosen.node_selector, **_instance_type(model.recipe)},
        "tolerations": tolerations,
        "terminationGracePeriodSeconds": DEREGISTRATION_SECONDS + DRAIN_SECONDS + 15,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [] if model.is_streamed else [_fetcher(model, settings)],
        "containers": [_server(model, settings)],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": backend.serve_size.shared_memory}},
        ],
    }


def _instance_type(recipe: Recipe) -> dict[str, str]:
    """The label of the nodes whose devices the recipe is made for."""
    wanted = recipe.backend.instance_type if get_backend(recipe.backend.name).has_devices else None
    return {"node.kubernetes.io/instance-type": wanted} if wanted is not None else {}


def _fetcher(model: ServedModel, settings: Settings) -> Manifest:
    """What brings the weights to the pod's disk, each file verified, before the server starts."""
    copies = [model.artifact, MODEL_FOLDER]
    for adapter in model.adapters:
        copies += [adapter.artifact, f"{ADAPTERS_FOLDER}/{adapter.name}"]
    return {
        # Not the server's image, which may be a vendor's.
        **_container("cpu", settings, settings.kubernetes.environment),
        "name": "fetch",
        "command": ["python", "-m", "airsmith.serving.fetch", settings.store, *copies],
        "envFrom": _store_credentials(settings),
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
        **_container(
            backend.serve_image, settings, _server_environment(model, settings), _key_variable(model, settings)
        ),
        **({"envFrom": _store_credentials(settings)} if model.is_streamed else {}),
        "name": SERVER,
        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "args": _arguments(model, settings),
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


def _server_environment(model: ServedModel, settings: Settings) -> Mapping[str, str]:
    """The backend's variables; where the model is streamed, those of the store as well."""
    backend = get_backend(model.recipe.backend.name).serve_environment
    if not model.is_streamed:
        return backend
    store = settings.kubernetes.environment
    # The streamer's own default puts the bucket into the host's name, which stores other than AWS's rarely have.
    path_style = {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"} if "AWS_ENDPOINT_URL" in store else {}
    return {**path_style, **store, **backend}


def _arguments(model: ServedModel, settings: Settings) -> list[str]:
    """vLLM's command line; the recipe's own arguments come last and so win over the backend's."""
    recipe = model.recipe
    backend = get_backend(recipe.backend.name)
    template = recipe.dataset.chat_template
    name = base_name(model.endpoint) if model.adapters else model.endpoint
    return [
        *(_streamed(model, settings) if model.is_streamed else ("--model", MODEL_FOLDER)),
        *("--served-model-name", name, "--host", "0.0.0.0", "--port", str(PORT), "--dtype", model.dtype),
        *("--shutdown-timeout", str(DRAIN_SECONDS)),
        *backend.serve_arguments,
        *(["--tensor-parallel-size", str(recipe.backend.devices)] if backend.has_devices else []),
        *(["--trust-remote-code"] if recipe.model.trust_remote_code else []),
        *(_lora_arguments(model.adapters) if model.adapters else []),
        *(["--chat-template", template] if model.adapters and template else []),
        *engine_arguments(recipe.serve.engine_args),
    ]


def _streamed(model: ServedModel, settings: Settings) -> list[str]:
    """Where vLLM streams the model from.

    :raises AirsmithError: `bad_recipe` where the store is no object store.
    """
    if not settings.store.startswith("s3://"):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.load is 'stream', but nothing streams from {settings.store}.",
            "Set serve.load to 'copy', or use an s3:// store.",
        )
    return ["--model", f"{settings.store}/{model.files}", "--load-format", "runai_streamer"]


def _lora_arguments(adapters: tuple[ServedAdapter, ...]) -> list[str]:
    """What loads adapters beside their base."""
    highest = max(adapter.rank for adapter in adapters)
    room = next(rank for rank in ADAPTER_RANKS if rank >= highest)
    at_once = min(len(adapters), _ADAPTERS_AT_ONCE)
    return [
        *("--enable-lora", "--max-loras", str(at_once), "--max-cpu-loras", str(len(adapters))),
        *("--max-lora-rank", str(room), "--lora-modules"),
        *(json.dumps({"name": adapter.name, "path": f"{ADAPTERS_FOLDER}/{adapter.name}"}) for adapter in adapters),
    ]


def _store_credentials(settings: Settings) -> list[Manifest]:
    """What reads the store, by reference; none with pod identity."""
    secret = settings.kubernetes.store_secret
    return [{"secretRef": {"name": secret}}] if secret else []


def _key_variable(model: ServedModel, settings: Settings) -> list[Manifest]:
    """The variable from which vLLM takes the key that requests must carry."""
    reference = api_key_of(model.recipe, settings)
    if reference is None:
        return []
    name, key = reference.split("/")
    return [{"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]


def _container(
    image: str, settings: Settings, environment: Mapping[str, str], secret_variables: Sequence[Manifest] = ()
) -> Manifest:
    """What both containers have: rights, scratch disk, and no way out to the Hub."""
    plain = {
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "HF_HOME": "/scratch/huggingface",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **environment,
    }
    return {
        "image": settings.image(image).reference,
        "env": [*({"name": name, "value": value} for name, value in plain.items()), *secret_variables],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
