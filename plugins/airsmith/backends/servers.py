"""What serves a recipe's model in a cluster: which engine, by which image, on which devices."""

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
    """What one pod of an endpoint is made of.

    :param engine: what serves.
    :param placed_as: name of the backend whose settings say where the pod may run.
    :param image: name of the image.
    :param arguments: what the engine is told before the recipe's own arguments, which win.
    :param environment: variables of the server.
    :param device_resource: what the pod asks the cluster for; None for plain CPUs.
    :param taint: of nodes with such devices, where they commonly have one.
    :param instance_type: of the nodes; any that fits when None.
    :param tensor_parallel_size: parts of every layer, each on a device or a core of one; None without devices.
    :param plugin: what serves on Neuron; None elsewhere.
    """

    engine: Literal["vllm", "vllm_neuron"]
    placed_as: str
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
        """Whether its pods ask the cluster for a device."""
        return self.device_resource is not None


def server_of(recipe: Recipe) -> Server:
    """What serves the model of a recipe.

    :raises AirsmithError: `bad_recipe` where nothing serves it as the recipe asks, with what would.
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


def check_parts(config: Mapping[str, Any], server: Server) -> None:
    """Refuse to share a model out to more cores than AWS's plugin can; optimum-neuron's pads what does not divide.

    :param config: of the model.
    :raises AirsmithError: `bad_recipe`, with the largest number of devices that works.
    """
    heads = (config.get("text_config") or config).get("num_attention_heads")
    parts = server.tensor_parallel_size
    if server.plugin is not VLLM_NEURON or parts is None or not heads or heads % parts == 0:
        return
    cores = parts // server.devices
    fitting = [devices for devices in range(1, server.devices) if heads % (devices * cores) == 0]
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"A server has {server.devices} devices of {cores} cores, but vLLM cannot share out the model's {heads} "
        f"attention heads to {parts} cores evenly.",
        f"Set serve.devices to {fitting[-1]}." if fitting else "Set serve.engine to 'vllm', for plain CPUs.",
    )


def _vllm(recipe: Recipe, backend: Backend) -> Server:
    """vLLM on plain CPUs or on the GPUs of a backend."""
    devices = (recipe.serve.devices or recipe.backend.devices) if backend.has_devices else 0
    return Server(
        engine="vllm",
        placed_as=backend.name,
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
        placed_as=backend.name,
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
