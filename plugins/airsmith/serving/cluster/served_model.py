"""What a new revision of an endpoint in a cluster serves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from airsmith.backends.servers import Server, server_of
from airsmith.cluster.labels import object_name
from airsmith.recipe import Recipe
from airsmith.serving.engines import ENGINES

CPU_LOAD_SECONDS = 600
"""Timeout for fetching and loading a model on plain CPUs."""


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter that is served with its base model.

    :param name: value of `model` in requests.
    :param artifact: its path in the store.
    :param rank: the highest rank of its LoRA matrices.
    """

    name: str
    artifact: str
    rank: int


@dataclass(frozen=True)
class ServedModel:
    """The model of a new revision, and the recipe that says how to serve it.

    :param endpoint: name of the endpoint.
    :param revision: unique id of the revision.
    :param artifact: path of the model in the store; with adapters, of their base model.
    :param files: path in the store of the folder with the model's files.
    :param dtype: dtype of the weights; vLLM's default would cast float32 to half precision.
    :param version: number in the registry; None if the model is not registered.
    :param adapters: adapters that are served with the base model; empty for a merged model.
    :param run: name of the run's folder, used in labels.
    :param config: digest of the model's configuration, an input of the compiler.
    """

    endpoint: str
    revision: str
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
        """The server that runs in the pods.

        :raises AirsmithError: `bad_recipe` if no server supports the recipe.
        """
        return server_of(self.recipe)

    @property
    def has_devices(self) -> bool:
        """Whether the pods request devices."""
        return self.server.has_devices

    @property
    def object_name(self) -> str:
        """Name of the revision's Deployment. It is unique, so that two revisions can run at the same time."""
        return deployment_name(self.endpoint, self.revision)

    @property
    def model_name(self) -> str:
        """Value of `model` in requests: the endpoint's name for a merged model, the recipe's name for its adapter."""
        return self.recipe.name if self.adapters else self.endpoint

    @property
    def is_streamed(self) -> bool:
        """Whether the weights are streamed from the store to memory instead of copied to the pod's disk."""
        return self.recipe.serve.load == "stream"

    @property
    def load_seconds(self) -> int:
        """Timeout for fetching, compiling and loading the model."""
        return max_load_seconds(self.server.engine) if self.has_devices else CPU_LOAD_SECONDS


def deployment_name(endpoint: str, revision_id: str) -> str:
    """Name of the Deployment of a revision."""
    return object_name(endpoint[:40], revision_id[:8])


def max_load_seconds(engine: str) -> int:
    """Timeout for the start of an engine on any device."""
    return ENGINES[engine].max_load_seconds
