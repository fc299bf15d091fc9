"""Additions to a server's pod on AWS Neuron: it restores and publishes the compile cache. Not run on a device.

The first start compiles for tens of minutes; its compile cache becomes an artifact, which later starts reuse. AWS's
plugin compiles while the server warms up, optimum-neuron's by a command before vLLM starts. Variables and defaults:
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/vllm-neuron/docs/design/compilation/compilation_cache.html,
`optimum/exporters/neuron/__main__.py` of optimum-neuron 0.4.5.
"""

from __future__ import annotations

from collections.abc import Mapping

from airsmith.artifacts.layout import artifact_folder
from airsmith.backends.neuron import COMPILERS_FOLDERS
from airsmith.backends.neuron_servers import scheduler_of, shape_of
from airsmith.cluster.manifest import Manifest
from airsmith.contracts.digests import canonical_digest
from airsmith.contracts.stages import ArtifactType
from airsmith.serving.cluster.arguments import compute_arguments
from airsmith.serving.cluster.containers import MODEL_FOLDER, PORT, airsmith_container, container
from airsmith.serving.cluster.served_model import ServedModel
from airsmith.serving.engines import COMPILE_SECONDS
from airsmith.settings import Settings

COMPILED_FOLDER = "/scratch/compiled"
EXPORTED_FOLDER = "/scratch/exported"

_CACHES = {
    "VLLM_CACHE_ROOT": f"{COMPILED_FOLDER}/vllm",
    "NEURON_COMPILE_CACHE_URL": f"{COMPILED_FOLDER}/neuronx",
    "NKI_COMPILE_CACHE_URL": f"{COMPILED_FOLDER}/nki",
}
"""Compile caches of AWS's plugin, of PyTorch/XLA with optimum-neuron's plugin, and of the kernels of both."""
_TIMEOUTS = {
    "VLLM_ENGINE_READY_TIMEOUT_S": str(COMPILE_SECONDS),
    "NEURON_LIBTORCH_COMPILATION_TIMEOUT": str(COMPILE_SECONDS),
}
"""By default, vLLM's API server waits 600 s for its engine, and so does a process for another one that compiles the
same graph."""


def compiled_artifact(model: ServedModel, settings: Settings) -> str | None:
    """Path in the store of the server's compile cache, by a digest of its inputs; None if the server does not compile.

    The weights are not an input, so that all models tuned from the same base model share the cache.

    :raises AirsmithError: `not_found` if the settings do not contain the image.
    """
    server = model.server
    if server.plugin is None:
        return None
    return artifact_folder(
        ArtifactType.COMPILE_CACHE,
        canonical_digest(
            {
                "engine": server.engine,
                "image": settings.image(server.image).reference,
                "instance_family": (server.instance_type or "").partition(".")[0],
                "environment": dict(server.environment),
                "model": model.config,
                "dtype": model.dtype,
                "arguments": compute_arguments(model),
            }
        ),
    )


def compiling_containers(model: ServedModel, settings: Settings) -> list[Manifest]:
    """The init containers between the download of the model and the server; empty without Neuron."""
    server = model.server
    compiled = compiled_artifact(model, settings)
    if server.plugin is None or compiled is None:
        return []
    return [
        *([_exporter(model, settings)] if server.plugin.exports else []),
        _publisher(compiled, settings.image(server.image).reference, settings),
    ]


def neuron_variables(model: ServedModel) -> Mapping[str, str]:
    """Environment variables of the compiler and the server; empty without Neuron."""
    return {**_TIMEOUTS, **_CACHES} if model.server.plugin is not None else {}


def served_folder(model: ServedModel) -> str:
    """Folder of the model that vLLM loads."""
    plugin = model.server.plugin
    return EXPORTED_FOLDER if plugin is not None and plugin.exports else MODEL_FOLDER


def writable_folders(model: ServedModel) -> list[Manifest]:
    """Mounts of the volume `temporary`, in which the compilers write."""
    if model.server.plugin is None:
        return []
    return [{"name": "temporary", "mountPath": folder} for folder in COMPILERS_FOLDERS]


def neuron_pod(model: ServedModel) -> tuple[Manifest, list[Manifest]]:
    """Additional fields of the pod and additional volumes; empty without Neuron."""
    server = model.server
    if server.plugin is None or server.instance_type is None:
        return {}, []
    scheduler = scheduler_of(server.instance_type, server.devices)
    return {"schedulerName": scheduler} if scheduler is not None else {}, [{"name": "temporary", "emptyDir": {}}]


def _exporter(model: ServedModel, settings: Settings) -> Manifest:
    """Compiles the model and shards its weights; offline, a server with optimum-neuron's plugin loads nothing else."""
    server = model.server
    length, sequences = shape_of(model.recipe)
    common = container(server.image, settings, {**neuron_variables(model), **server.environment})
    devices = {str(server.device_resource): str(server.devices)}
    return {
        **common,
        "name": "export",
        "command": ["python", "-m", "optimum.exporters.neuron"],
        "args": [
            *("--model", MODEL_FOLDER, "--task", "text-generation"),
            *("--batch_size", str(sequences), "--sequence_length", str(length)),
            *("--tensor_parallel_size", str(server.tensor_parallel_size)),
            *(["--trust-remote-code"] if model.recipe.model.trust_remote_code else []),
            EXPORTED_FOLDER,
        ],
        "resources": {
            "requests": {"cpu": server.size.cpu, "memory": server.size.memory, **devices},
            "limits": {"memory": server.size.memory, **devices},
        },
        "volumeMounts": [*common["volumeMounts"], *writable_folders(model)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _publisher(compiled: str, image: str, settings: Settings) -> Manifest:
    """A sidecar that publishes the compile cache as soon as the server is healthy; the server does not depend on it."""
    health = f"http://127.0.0.1:{PORT}/health"
    command = ["airsmith_stages.serving.publish_compiled", settings.store, compiled, COMPILED_FOLDER, health, image]
    return {
        **airsmith_container("publish", command, settings, {"cpu": "50m", "memory": "128Mi"}),
        "restartPolicy": "Always",  # Makes an init container a sidecar: the pod does not wait for its completion.
    }
