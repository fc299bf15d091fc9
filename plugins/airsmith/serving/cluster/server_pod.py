"""The pod of a revision, from the served model and the settings."""

from __future__ import annotations

from collections.abc import Mapping

from airsmith.backends.instances import INSTANCE_TYPE_LABEL
from airsmith.cluster.manifest import Manifest, as_manifest
from airsmith.cluster.secrets import api_key_of
from airsmith.cluster.security import pod_security
from airsmith.serving.cluster.arguments import DRAIN_SECONDS, server_arguments
from airsmith.serving.cluster.containers import (
    ADAPTERS_FOLDER,
    MODEL_FOLDER,
    PORT,
    airsmith_container,
    container,
    store_credentials,
)
from airsmith.serving.cluster.neuron import (
    COMPILED_FOLDER,
    compiled_artifact,
    compiling_containers,
    neuron_pod,
    neuron_variables,
    served_folder,
    writable_folders,
)
from airsmith.serving.cluster.served_model import ServedModel
from airsmith.settings import Settings

SERVER = "vllm"
"""Name of the server's container."""
DEREGISTRATION_SECONDS = 5
"""Time for the cluster to remove a pod from its Services before the server receives SIGTERM."""


def pod_spec(model: ServedModel, settings: Settings) -> Manifest:
    """The pod: it downloads the model, unless the model is streamed, then serves it with vLLM.

    :raises AirsmithError: `not_found` if the settings do not contain the image, `bad_recipe` if no server supports the
        recipe.
    """
    kubernetes = settings.kubernetes
    server = model.server
    backend = settings.backend(server.placement_backend)
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in backend.tolerations]
    if server.taint is not None:
        tolerations.append({"key": server.taint, "operator": "Exists", "effect": "NoSchedule"})
    neuron_fields, neuron_volumes = neuron_pod(model)
    return {
        **neuron_fields,
        "serviceAccountName": kubernetes.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": name} for name in kubernetes.image_pull_secrets],
        "nodeSelector": {**backend.node_selector, **_instance_type(model)},
        "tolerations": tolerations,
        "terminationGracePeriodSeconds": DEREGISTRATION_SECONDS + DRAIN_SECONDS + 15,
        "securityContext": as_manifest(pod_security()),
        "initContainers": [
            *([] if model.is_streamed else [_fetcher(model, settings)]),
            *compiling_containers(model, settings),
        ],
        "containers": [_server(model, settings)],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": server.size.shared_memory}},
            *neuron_volumes,
        ],
    }


def _instance_type(model: ServedModel) -> dict[str, str]:
    """Node selector for the instance type that the server requires."""
    required = model.server.instance_type
    return {INSTANCE_TYPE_LABEL: required} if required is not None else {}


def _fetcher(model: ServedModel, settings: Settings) -> Manifest:
    """The init container that copies the model to the pod's disk and verifies each file."""
    copies = [model.artifact, MODEL_FOLDER]
    for adapter in model.adapters:
        copies += [adapter.artifact, f"{ADAPTERS_FOLDER}/{adapter.name}"]
    compiled = compiled_artifact(model, settings)
    cache = ["--optional", compiled, COMPILED_FOLDER] if compiled is not None else []
    return airsmith_container(
        "fetch",
        ["airsmith_stages.serving.fetch", *cache, settings.store, *copies],
        settings,
        {"cpu": "200m", "memory": "512Mi", "ephemeral-storage": settings.kubernetes.scratch_size},
    )


def _server(model: ServedModel, settings: Settings) -> Manifest:
    """The server's container. vLLM is its first process, so that it receives SIGTERM and completes its requests."""
    server = model.server
    devices = {server.device_resource: str(server.devices)} if server.device_resource else {}
    health = {"httpGet": {"path": "/health", "port": PORT}}
    common = container(server.image, settings, _server_environment(model, settings), _key_variable(model, settings))
    return {
        **common,
        **({"envFrom": store_credentials(settings)} if model.is_streamed else {}),
        "name": SERVER,
        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "args": server_arguments(model, settings, served_folder(model)),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {
            "requests": {
                "cpu": server.size.cpu,
                "memory": server.size.memory,
                "ephemeral-storage": settings.kubernetes.scratch_size,
                **devices,
            },
            "limits": {"memory": server.size.memory, **devices},
        },
        "startupProbe": {**health, "periodSeconds": 2, "failureThreshold": model.load_seconds // 2},
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {**health, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": DEREGISTRATION_SECONDS}}},
        "volumeMounts": [*common["volumeMounts"], *writable_folders(model)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _server_environment(model: ServedModel, settings: Settings) -> Mapping[str, str]:
    """The engine's environment variables; for a streamed model, also those of the store."""
    variables = {**neuron_variables(model), **model.server.environment}
    if not model.is_streamed:
        return variables
    store = settings.kubernetes.environment
    # By default, the streamer uses virtual-hosted addressing, which few stores other than AWS's support.
    path_style = {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"} if "AWS_ENDPOINT_URL" in store else {}
    return {**path_style, **store, **variables}


def _key_variable(model: ServedModel, settings: Settings) -> list[Manifest]:
    """The environment variable with the API key that vLLM requires of requests."""
    reference = api_key_of(model.recipe, settings)
    if reference is None:
        return []
    name, key = reference.split("/")
    return [{"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]
