"""Selection of the server for a recipe's model in a cluster: engine, image and devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from airsmith.backends import get_backend
from airsmith.backends.base import Backend, PodSize
from airsmith.backends.cpu import CPU
from airsmith.backends.neuron import NEURON
from airsmith.backends.neuron_servers import (
    VLLM_NEURON,
    NeuronPlugin,
    check_neuron,
    logical_cores,
    neuron_environment,
    plugin_of,
    server_size,
    shape_arguments,
)
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe


@dataclass(frozen=True)
class Server:
    """Configuration of an endpoint's pods.

    :param engine: model server.
    :param placement_backend: name of the backend whose settings select the nodes.
    :param image: name of the image.
    :param arguments: engine arguments, which precede the recipe's arguments and have lower precedence.
    :param environment: environment variables of the server.
    :param device_resource: extended resource that the pod requests; None for CPUs.
    :param taint: usual taint of nodes with such devices.
    :param instance_type: instance type of the nodes; None for any that fits.
    :param tensor_parallel_size: number of devices, or of cores on Neuron; None without devices.
    :param plugin: vLLM plugin on Neuron; None elsewhere.
    """

    engine: Literal["vllm", "vllm_neuron"]
    placement_backend: str
    image: str
    size: PodSize
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    device_resource: str | None = None
    devices: int = 0
    taint: str | None = None
    instance_type: str | None = None
    tensor_parallel_size: int | None = None
    plugin: NeuronPlugin | None = None

    @property
    def has_devices(self) -> bool:
        """Whether the pods request devices."""
        return self.device_resource is not None


def server_of(recipe: Recipe) -> Server:
    """The server for a recipe's model.

    :raises AirsmithError: `bad_recipe` if no server supports the recipe, with a remedy.
    """
    backend = get_backend(recipe.backend.name)
    on_neuron = backend.device_resource == NEURON
    if recipe.serve.engine == "vllm_neuron" and not on_neuron:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"serve.engine is 'vllm_neuron', but backend.name is {backend.name!r}, which has no Neuron devices.",
            "Set serve.engine to 'auto', or choose a Neuron backend.",
        )
    if on_neuron and recipe.serve.engine in ("auto", "vllm_neuron"):
        return _on_neuron(recipe, backend)
    return _vllm(recipe, CPU if on_neuron else backend)


def check_sharding(config: Mapping[str, Any], server: Server) -> None:
    """Check that AWS's plugin can shard a model across the cores; optimum-neuron's plugin pads uneven sizes.

    :param config: the model's config.
    :raises AirsmithError: `bad_recipe`, with the largest supported number of devices.
    """
    heads = (config.get("text_config") or config).get("num_attention_heads")
    cores = server.tensor_parallel_size
    if server.plugin is not VLLM_NEURON or cores is None or not heads or heads % cores == 0:
        return
    cores_per_device = cores // server.devices
    fitting = [devices for devices in range(1, server.devices) if heads % (devices * cores_per_device) == 0]
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"A server has {server.devices} devices of {cores_per_device} cores, but vLLM cannot shard the model's "
        f"{heads} attention heads evenly across {cores} cores.",
        f"Set serve.devices to {fitting[-1]}." if fitting else "Set serve.engine to 'vllm' to use CPUs.",
    )


def _vllm(recipe: Recipe, backend: Backend) -> Server:
    """vLLM on CPUs or GPUs."""
    devices = (recipe.serve.devices or recipe.backend.devices) if backend.has_devices else 0
    return Server(
        engine="vllm",
        placement_backend=backend.name,
        image=backend.serve_image,
        size=backend.serve_size,
        arguments=backend.serve_arguments,
        environment=backend.serve_environment,
        device_resource=backend.device_resource,
        devices=devices,
        taint=backend.device_resource if backend.devices_are_tainted else None,
        instance_type=(recipe.serve.instance_type or recipe.backend.instance_type) if backend.has_devices else None,
        tensor_parallel_size=devices or None,
    )


def _on_neuron(recipe: Recipe, backend: Backend) -> Server:
    """vLLM with a plugin for the Neuron devices of the recipe's instance type."""
    instance_type = recipe.serve.instance_type or recipe.backend.instance_type
    devices = recipe.serve.devices or recipe.backend.devices
    check_neuron(recipe, instance_type, devices)
    assert instance_type is not None, "just checked"
    plugin = plugin_of(instance_type)
    return Server(
        engine="vllm_neuron",
        placement_backend=backend.name,
        image=plugin.image,
        size=server_size(instance_type, devices),
        arguments=shape_arguments(recipe),
        environment=neuron_environment(instance_type),
        device_resource=NEURON,
        devices=devices,
        taint=NEURON if backend.devices_are_tainted else None,
        instance_type=instance_type,
        tensor_parallel_size=devices * logical_cores(instance_type),
        plugin=plugin,
    )
