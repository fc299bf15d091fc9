"""What a backend decides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from airsmith.backends.model_sizes import ModelSizes
from airsmith.contracts.spec import ParallelPlan
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe


@dataclass(frozen=True)
class PodSize:
    """What one pod asks for, as Kubernetes quantities; its memory is also its limit.

    :param shared_memory: size of `/dev/shm`, through which data loaders and collectives pass tensors.
    """

    cpu: str
    memory: str
    shared_memory: str = "1Gi"


@dataclass(frozen=True)
class Placement:
    """What a training's pod has beside its devices, CPUs and memory.

    :param resources: that it asks the cluster for, each also as its limit.
    :param environment: variables of its processes.
    :param scheduler: name of what places it; the cluster's own when None.
    :param temporary: folders beside the scratch disk that its libraries write to.
    """

    resources: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    scheduler: str | None = None
    temporary: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backend:
    """One accelerator family.

    :param train_image: name of the image that holds the training's libraries.
    :param serve_image: name of the image that serves its models.
    :param serve_size: of a serving pod.
    :param serve_arguments: what vLLM is told on it.
    :param serve_environment: variables of the server.
    :param optional_stages: stages that this backend adds to those every recipe has.
    :param precisions: what the accelerator computes in.
    :param refused_methods: training methods that it cannot run, with the reason.
    :param device_resource: what its pods ask the cluster for, for example `nvidia.com/gpu`; None for plain CPUs.
    :param pod_size: of a training pod, per device.
    :param devices_are_tainted: whether nodes with such devices commonly keep other pods away by a taint of that name.
    :param splits_model: whether a recipe may say how processes share the model.
    :param evaluates: whether its image answers prompts as well.
    :param model_types: families of models that it trains, in the words of their configs; any when empty.
    """

    name: str
    train_image: str
    serve_image: str
    serve_size: PodSize = PodSize(cpu="1", memory="6Gi")
    serve_arguments: tuple[str, ...] = ()
    serve_environment: Mapping[str, str] = field(default_factory=dict)
    optional_stages: frozenset[str] = frozenset()
    precisions: tuple[str, ...] = ("float32", "bfloat16", "float16")
    refused_methods: Mapping[str, str] = field(default_factory=dict)
    device_resource: str | None = None
    pod_size: PodSize = PodSize(cpu="1", memory="4Gi")
    devices_are_tainted: bool = True
    splits_model: bool = False
    evaluates: bool = True
    model_types: tuple[str, ...] = ()

    @property
    def has_devices(self) -> bool:
        """Whether its pods ask the cluster for a device."""
        return self.device_resource is not None

    def parallel(self, recipe: Recipe) -> ParallelPlan:
        """How the processes of a training share the model."""
        return ParallelPlan(processes_per_node=recipe.backend.devices)

    def data_parallel_size(self, recipe: Recipe) -> int:
        """How many workers each take a share of every batch."""
        parallel = self.parallel(recipe)
        return parallel.processes_per_node * recipe.backend.nodes // (parallel.tensor * parallel.pipeline)

    def training_size(self, recipe: Recipe) -> PodSize:
        """The size of a training's pod, of each on several nodes."""
        size, devices = self.pod_size, recipe.backend.devices
        return PodSize(times(size.cpu, devices), times(size.memory, devices), size.shared_memory)

    def placement(self, recipe: Recipe) -> Placement:
        """What a training's pod has beside its size and its devices."""
        return Placement()

    def target_modules(self, recipe: Recipe) -> tuple[str, ...]:
        """The recipe's targets of LoRA, in the words that the training's library takes."""
        return recipe.method.target_modules

    def notes(self, recipe: Recipe) -> tuple[str, ...]:
        """What a person should know of a training that is allowed."""
        return ()

    def check(self, recipe: Recipe) -> None:
        """Refuse what this backend cannot run.

        :raises AirsmithError: `bad_recipe`, naming the field, the reason and what works.
        """
        if recipe.method.name in self.refused_methods:
            reason = self.refused_methods[recipe.method.name]
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"method.name is {recipe.method.name!r}, which backend.name {self.name!r} cannot run: {reason}.",
                "Set method.name to 'lora' or 'full', or choose another backend.",
            )
        if recipe.training.precision not in self.precisions:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"training.precision is {recipe.training.precision!r}, "
                f"which backend.name {self.name!r} does not compute in.",
                f"Use one of {', '.join(self.precisions)}.",
            )
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if getattr(recipe.backend, name) is not None and not self.splits_model:
                raise AirsmithError(
                    ErrorKind.BAD_RECIPE,
                    f"backend.{name} is set, but on backend.name {self.name!r} every process has the whole model, or "
                    "a share of each parameter.",
                    f"Remove backend.{name}.",
                )

    def check_model(self, recipe: Recipe, model: ModelSizes) -> None:
        """Refuse a model that this backend cannot train as the recipe says.

        :raises AirsmithError: `bad_recipe`, naming the size, the reason and what works.
        """


def times(quantity: str, factor: int) -> str:
    """So much more of a quantity of Kubernetes, in the same unit."""
    number = re.match(r"\d+", quantity)
    assert number is not None
    return f"{int(number.group()) * factor}{quantity[number.end() :]}"
