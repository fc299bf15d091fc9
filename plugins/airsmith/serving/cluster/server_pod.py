"""The pod that serves a model in a cluster, from what is to be served and the settings alone."""

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
    container,
    light_container,
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
from airsmith.serving.cluster.served import ServedModel
from airsmith.settings import Settings

SERVER = "vllm"
"""Name of the container that serves."""
DEREGISTRATION_SECONDS = 5
"""Time that the cluster has to send new requests elsewhere before a server begins to end."""


def pod_spec(model: ServedModel, settings: Settings) -> Manifest:
    """The pod: it fetches the model, unless that is streamed, then serves it with vLLM.

    :raises AirsmithError: `not_found` where the settings lack the image, `bad_recipe` where nothing serves the model
        as its recipe asks.
    """
    kubernetes = settings.kubernetes
    server = model.server
    chosen = settings.backend(server.placed_as)
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in chosen.tolerations]
    if server.taint is not None:
        tolerations.append({"key": server.taint, "operator": "Exists", "effect": "NoSchedule"})
    on_neuron, more_volumes = neuron_pod(model)
    return {
        **on_neuron,
        "serviceAccountName": kubernetes.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": name} for name in kubernetes.image_pull_secrets],
        "nodeSelector": {**chosen.node_selector, **_instance_type(model)},
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
            *more_volumes,
        ],
    }


def _instance_type(model: ServedModel) -> dict[str, str]:
    """The label of the nodes whose devices the server is made for."""
    wanted = model.server.instance_type
    return {INSTANCE_TYPE_LABEL: wanted} if wanted is not None else {}


def _fetcher(model: ServedModel, settings: Settings) -> Manifest:
    """What brings the weights to the pod's disk, each file verified, before the server starts."""
    copies = [model.artifact, MODEL_FOLDER]
    for adapter in model.adapters:
        copies += [adapter.artifact, f"{ADAPTERS_FOLDER}/{adapter.name}"]
    compiled = compiled_artifact(model, settings)
    cache = ["--if-there", compiled, COMPILED_FOLDER] if compiled is not None else []
    return light_container(
        "fetch",
        ["airsmith_stages.serving.fetch", *cache, settings.store, *copies],
        settings,
        {"cpu": "200m", "memory": "512Mi", "ephemeral-storage": settings.kubernetes.scratch_size},
    )


def _server(model: ServedModel, settings: Settings) -> Manifest:
    """vLLM as the container's first process, so that it hears SIGTERM and ends its requests in order."""
    server = model.server
    offered = {server.device_resource: str(server.devices)} if server.device_resource else {}
    health = {"httpGet": {"path": "/health", "port": PORT}}
    described = container(server.image, settings, _server_environment(model, settings), _key_variable(model, settings))
    return {
        **described,
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
                **offered,
            },
            "limits": {"memory": server.size.memory, **offered},
        },
        "startupProbe": {**health, "periodSeconds": 2, "failureThreshold": model.load_seconds // 2},
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {**health, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": DEREGISTRATION_SECONDS}}},
        "volumeMounts": [*described["volumeMounts"], *writable_folders(model)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _server_environment(model: ServedModel, settings: Settings) -> Mapping[str, str]:
    """The engine's variables; where the model is streamed, those of the store as well."""
    variables = {**neuron_variables(model), **model.server.environment}
    if not model.is_streamed:
        return variables
    store = settings.kubernetes.environment
    # The streamer's own default puts the bucket into the host's name, which stores other than AWS's rarely have.
    path_style = {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"} if "AWS_ENDPOINT_URL" in store else {}
    return {**path_style, **store, **variables}


def _key_variable(model: ServedModel, settings: Settings) -> list[Manifest]:
    """The variable from which vLLM takes the key that requests must carry."""
    reference = api_key_of(model.recipe, settings)
    if reference is None:
        return []
    name, key = reference.split("/")
    return [{"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]
