"""What a server's pod has more on AWS Neuron: its compiler's cache, brought before and kept after. Not run on a device.

A first start compiles for tens of minutes; what it compiled becomes an artifact, from which later starts begin. AWS's
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
from airsmith.serving.cluster.arguments import computing_arguments
from airsmith.serving.cluster.containers import MODEL_FOLDER, PORT, container, light_container
from airsmith.serving.cluster.served import COMPILE_SECONDS, ServedModel
from airsmith.settings import Settings

COMPILED_FOLDER = "/scratch/compiled"
EXPORTED_FOLDER = "/scratch/exported"

_CACHES = {
    "VLLM_CACHE_ROOT": f"{COMPILED_FOLDER}/vllm",
    "NEURON_COMPILE_CACHE_URL": f"{COMPILED_FOLDER}/neuronx",
    "NKI_COMPILE_CACHE_URL": f"{COMPILED_FOLDER}/nki",
}
"""Where AWS's plugin, PyTorch/XLA under optimum-neuron's, and kernels of either look for what is compiled."""
_PATIENCE = {
    "VLLM_ENGINE_READY_TIMEOUT_S": str(COMPILE_SECONDS),
    "NEURON_LIBTORCH_COMPILATION_TIMEOUT": str(COMPILE_SECONDS),
}
"""vLLM's front gives its engine 600 s to start, and a process as long to another one that compiles the same graph."""


def compiled_artifact(model: ServedModel, settings: Settings) -> str | None:
    """Path in the store of what the server's compiler makes, by all that it depends on; None where nothing compiles.

    It depends on no weight, so the next model tuned from the same base starts from it as well.

    :raises AirsmithError: `not_found` where the settings lack the image.
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
                "arguments": computing_arguments(model),
            }
        ),
    )


def compiling_containers(model: ServedModel, settings: Settings) -> list[Manifest]:
    """What runs between the fetching of the model and the server: nothing but on Neuron."""
    server = model.server
    compiled = compiled_artifact(model, settings)
    if server.plugin is None or compiled is None:
        return []
    return [
        *([_exporter(model, settings)] if server.plugin.exports else []),
        _publisher(compiled, settings.image(server.image).reference, settings),
    ]


def neuron_variables(model: ServedModel) -> Mapping[str, str]:
    """Variables of what compiles and of the server; none elsewhere."""
    return {**_PATIENCE, **_CACHES} if model.server.plugin is not None else {}


def served_folder(model: ServedModel) -> str:
    """Where the model that vLLM loads lies."""
    plugin = model.server.plugin
    return EXPORTED_FOLDER if plugin is not None and plugin.exports else MODEL_FOLDER


def writable_folders(model: ServedModel) -> list[Manifest]:
    """Mounts of the volume `temporary`."""
    if model.server.plugin is None:
        return []
    return [{"name": "temporary", "mountPath": folder} for folder in COMPILERS_FOLDERS]


def neuron_pod(model: ServedModel) -> tuple[Manifest, list[Manifest]]:
    """Fields of the pod, and volumes, that only pods on Neuron have."""
    server = model.server
    if server.plugin is None or server.instance_type is None:
        return {}, []
    scheduler = scheduler_of(server.instance_type, server.devices)
    return {"schedulerName": scheduler} if scheduler is not None else {}, [{"name": "temporary", "emptyDir": {}}]


def _exporter(model: ServedModel, settings: Settings) -> Manifest:
    """Compiles the model and shares its weights out: a server of this plugin loads nothing else without the Hub."""
    server = model.server
    length, sequences = shape_of(model.recipe)
    described = container(server.image, settings, {**neuron_variables(model), **server.environment})
    offered = {str(server.device_resource): str(server.devices)}
    return {
        **described,
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
            "requests": {"cpu": server.size.cpu, "memory": server.size.memory, **offered},
            "limits": {"memory": server.size.memory, **offered},
        },
        "volumeMounts": [*described["volumeMounts"], *writable_folders(model)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _publisher(compiled: str, image: str, settings: Settings) -> Manifest:
    """Keeps what was compiled, once the server answers; it stays beside the server, and the server does without it."""
    health = f"http://127.0.0.1:{PORT}/health"
    command = ["airsmith_stages.serving.publish_compiled", settings.store, compiled, COMPILED_FOLDER, health, image]
    return {
        **light_container("publish", command, settings, {"cpu": "50m", "memory": "128Mi"}),
        "restartPolicy": "Always",  # Of an init container: the pod does not wait for its end.
    }
