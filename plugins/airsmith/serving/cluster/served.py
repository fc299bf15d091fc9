"""What one start of an endpoint's server serves, and what it goes by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from airsmith.backends.servers import Server, server_of
from airsmith.cluster.labels import object_name
from airsmith.recipe import Recipe

LOAD_SECONDS = 600
"""Longest time that a server may take to fetch and load its model on plain CPUs."""
DEVICE_LOAD_SECONDS = 3 * LOAD_SECONDS
"""The same for large models, on accelerators."""
COMPILE_SECONDS = 7200
"""The same where the server compiles first: up to an hour is reported for large models, and slower hosts have more."""


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
    :param config: digest of the model's configuration, which what is compiled of it depends on.
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
    config: str = ""

    @cached_property
    def server(self) -> Server:
        """What serves it.

        :raises AirsmithError: `bad_recipe` where nothing serves it as the recipe asks.
        """
        return server_of(self.recipe)

    @property
    def has_devices(self) -> bool:
        """Whether its server asks for accelerators."""
        return self.server.has_devices

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
        """Longest time that it may take to fetch, compile and load."""
        return longest_load(self.server.engine) if self.has_devices else LOAD_SECONDS


def deployment_name(endpoint: str, deployment: str) -> str:
    """Name of the object that runs one start of an endpoint's server."""
    return object_name(endpoint[:40], deployment[:8])


def longest_load(engine: str) -> int:
    """Longest time that a server of an engine may take to start, whatever it serves on."""
    return COMPILE_SECONDS if engine == "vllm_neuron" else DEVICE_LOAD_SECONDS
