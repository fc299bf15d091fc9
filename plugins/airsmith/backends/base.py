"""Interface of a backend."""

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
    """Resource requests of a pod, as Kubernetes quantities; memory is also the limit.

    :param shared_memory: size of `/dev/shm`, which data loaders and collectives use to pass tensors.
    """

    cpu: str
    memory: str
    shared_memory: str = "1Gi"


@dataclass(frozen=True)
class Placement:
    """Settings of a training pod besides devices, CPUs and memory.

    :param resources: additional resource requests, equal to the limits.
    :param environment: environment variables.
    :param scheduler: scheduler name; None for the cluster's default scheduler.
    :param temporary: folders outside the scratch disk that the libraries write to.
    """

    resources: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    scheduler: str | None = None
    temporary: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backend:
    """An accelerator family.

    :param train_image: name of the training image.
    :param serve_image: name of the serving image.
    :param serve_size: size of a serving pod.
    :param serve_arguments: vLLM arguments for this backend.
    :param serve_environment: environment variables of the server.
    :param optional_stages: additional stages of this backend.
    :param precisions: supported values of `training.precision`.
    :param unsupported_methods: training methods that the backend does not support, with the reason.
    :param device_resource: extended resource of a device, for example `nvidia.com/gpu`; None for CPUs.
    :param pod_size: size of a training pod per device.
    :param devices_are_tainted: whether nodes with such devices usually have a taint with the resource's name.
    :param splits_model: whether a recipe may set tensor and pipeline parallel sizes.
    :param evaluates: whether the training image also runs the evaluation.
    :param model_types: supported values of `model_type` in a model's config; empty for any.
    """

    name: str
    train_image: str
    serve_image: str
    serve_size: PodSize = PodSize(cpu="1", memory="6Gi")
    serve_arguments: tuple[str, ...] = ()
    serve_environment: Mapping[str, str] = field(default_factory=dict)
    optional_stages: frozenset[str] = frozenset()
    precisions: tuple[str, ...] = ("float32", "bfloat16", "float16")
    unsupported_methods: Mapping[str, str] = field(default_factory=dict)
    device_resource: str | None = None
    pod_size: PodSize = PodSize(cpu="1", memory="4Gi")
    devices_are_tainted: bool = True
    splits_model: bool = False
    evaluates: bool = True
    model_types: tuple[str, ...] = ()

    @property
    def has_devices(self) -> bool:
        """Whether the pods request devices."""
        return self.device_resource is not None

    def parallel(self, recipe: Recipe) -> ParallelPlan:
        """Tensor and pipeline parallel sizes, and processes per node, of a training."""
        return ParallelPlan(processes_per_node=recipe.backend.devices)

    def data_parallel_size(self, recipe: Recipe) -> int:
        """Number of data-parallel workers, which divide each batch."""
        parallel = self.parallel(recipe)
        return parallel.processes_per_node * recipe.backend.nodes // (parallel.tensor * parallel.pipeline)

    def training_size(self, recipe: Recipe) -> PodSize:
        """Size of each training pod."""
        size, devices = self.pod_size, recipe.backend.devices
        return PodSize(scale_quantity(size.cpu, devices), scale_quantity(size.memory, devices), size.shared_memory)

    def placement(self, recipe: Recipe) -> Placement:
        """Settings of a training pod besides its size and its devices."""
        return Placement()

    def target_modules(self, recipe: Recipe) -> tuple[str, ...]:
        """The recipe's LoRA targets, in the form that the training library accepts."""
        return recipe.method.target_modules

    def notes(self, recipe: Recipe) -> tuple[str, ...]:
        """Notes for the user about a valid recipe."""
        return ()

    def check(self, recipe: Recipe) -> None:
        """Check that this backend supports the recipe.

        :raises AirsmithError: `bad_recipe`, with field, reason and supported values.
        """
        if recipe.method.name in self.unsupported_methods:
            reason = self.unsupported_methods[recipe.method.name]
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"method.name is {recipe.method.name!r}, which backend.name {self.name!r} does not support: {reason}.",
                "Set method.name to 'lora' or 'full', or choose another backend.",
            )
        if recipe.training.precision not in self.precisions:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"training.precision is {recipe.training.precision!r}, "
                f"which backend.name {self.name!r} does not support.",
                f"Use one of {', '.join(self.precisions)}.",
            )
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if getattr(recipe.backend, name) is not None and not self.splits_model:
                raise AirsmithError(
                    ErrorKind.BAD_RECIPE,
                    f"backend.{name} is set, but backend.name {self.name!r} supports only data parallelism, with a "
                    "replicated or fully sharded model.",
                    f"Remove backend.{name}.",
                )

    def check_model(self, recipe: Recipe, model: ModelSizes) -> None:
        """Check that this backend can train the model with the recipe's settings.

        :raises AirsmithError: `bad_recipe`, with size, reason and supported values.
        """


def scale_quantity(quantity: str, factor: int) -> str:
    """Multiply a Kubernetes quantity, keeping its unit."""
    number = re.match(r"\d+", quantity)
    assert number is not None
    return f"{int(number.group()) * factor}{quantity[number.end() :]}"
