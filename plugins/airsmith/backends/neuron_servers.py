"""The vLLM plugins for AWS Neuron: supported instances, sizes of pods, and limitations.

Two plugins exist, for different devices; not run on a device.

- AWS's vLLM Neuron (Beta, vLLM 0.24): Trn2 and Trn3. https://awsdocs-neuron.readthedocs-hosted.com/en/latest/vllm-neuron/
- optimum-neuron's (0.4.5, vLLM 0.11): Inf2 and Trn1. https://huggingface.co/docs/optimum-neuron/guides/vllm_plugin
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airsmith.backends.base import PodSize
from airsmith.backends.instances import Device, Instance, instance_table
from airsmith.backends.neuron import SCHEDULER, share_of_node
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.operation import unsupported_on_neuron

ROW_MULTIPLE = 128
"""Sequence lengths are compiled in multiples of this number of tokens."""
MAX_MODEL_LENGTH, MAX_SEQUENCES = "max-model-len", "max-num-seqs"
EXAMPLE_VALUES = {MAX_MODEL_LENGTH: 4096, MAX_SEQUENCES: 8}
DEFAULT_SEQUENCES = 8
"""Default number of concurrent sequences; graphs are compiled for this number."""


@dataclass(frozen=True)
class NeuronPlugin:
    """A vLLM plugin.

    :param image: name of the image in the settings, which refers to a vendor's image.
    :param families: supported instance families.
    :param exports: whether a separate command must compile the model before vLLM loads it: for a model that is not
        compiled, optimum-neuron's plugin requests compiled graphs from the Hub, which servers cannot reach
        (`optimum/neuron/vllm/model_loader.py`).
    :param drains: whether its vLLM version supports a timeout for requests in flight at shutdown.
    """

    image: str
    families: tuple[str, ...]
    exports: bool
    drains: bool


VLLM_NEURON = NeuronPlugin("vllm-neuron", families=("trn2", "trn3"), exports=False, drains=True)
OPTIMUM = NeuronPlugin("vllm-optimum-neuron", families=("inf2", "trn1", "trn1n"), exports=True, drains=False)
_PLUGINS = (VLLM_NEURON, OPTIMUM)


def plugin_of(instance_type: str) -> NeuronPlugin:
    """The plugin for an instance type.

    :raises AirsmithError: `bad_recipe` if no plugin supports it.
    """
    family = instance_type.partition(".")[0]
    for plugin in _PLUGINS:
        if family in plugin.families:
            return plugin
    known = ", ".join(sorted(name for plugin in _PLUGINS for name in plugin.families))
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"The servers' instance type is {instance_type}, which no vLLM plugin for Neuron supports.",
        f"Set serve.instance_type to a type of the families {known}, or serve.engine to 'vllm' to use CPUs.",
    )


def check_neuron(recipe: Recipe, instance_type: str | None, devices: int) -> None:
    """Check that a plugin supports the recipe.

    :param instance_type: instance type of the servers.
    :param devices: devices per server.
    :raises AirsmithError: `bad_recipe`, with reason and remedy.
    """
    for problem in unsupported_on_neuron(recipe.serve):
        reason, _, remedy = problem.rpartition(": ")
        raise AirsmithError(ErrorKind.BAD_RECIPE, f"{reason}.", f"{remedy[0].upper()}{remedy[1:]}.")
    if instance_type is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "serve.instance_type and backend.instance_type are both empty, but they determine the vLLM plugin and the "
            "number of cores.",
            "Set serve.instance_type, for example to trn2.3xlarge or inf2.xlarge.",
        )
    plugin_of(instance_type)
    instance = _instance(instance_type)
    possible = instance.device_counts or range(1, instance.devices + 1)
    if devices not in possible:
        fewer = max((count for count in possible if count < devices), default=min(possible))
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"A server requires {devices} devices, but a pod on {instance_type} cannot request this number of its "
            f"{instance.devices} devices.",
            f"Set serve.devices to {fewer}, or choose another serve.instance_type.",
        )


def logical_cores(instance_type: str) -> int:
    """Number of logical cores of a device."""
    return _device(instance_type).logical_cores


def neuron_environment(instance_type: str) -> Mapping[str, str]:
    """Environment variables that configure the size of a logical core."""
    cores = _device(instance_type).cores_per_logical
    return {"NEURON_LOGICAL_NC_CONFIG": str(cores)} if cores > 1 else {}


def shape_of(recipe: Recipe) -> tuple[int, int]:
    """Maximum sequence length and number of concurrent sequences, for which graphs are compiled.

    Without engine_args, the length covers the training rows and the answers of the evaluation: vLLM's default, the
    model's maximum, often does not fit a device.
    """
    longest = recipe.dataset.max_length + recipe.evaluate.max_new_tokens
    rows = -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE
    return _engine_argument(recipe, MAX_MODEL_LENGTH) or rows, _engine_argument(
        recipe, MAX_SEQUENCES
    ) or DEFAULT_SEQUENCES


def shape_arguments(recipe: Recipe) -> tuple[str, ...]:
    """vLLM arguments for the shape, without those that the recipe sets."""
    shape = zip((MAX_MODEL_LENGTH, MAX_SEQUENCES), shape_of(recipe), strict=True)
    missing = [(name, value) for name, value in shape if not _engine_argument(recipe, name)]
    return tuple(text for name, value in missing for text in (f"--{name}", str(value)))


def _engine_argument(recipe: Recipe, name: str) -> int | None:
    """A numeric argument of the recipe's `engine_args`; None if not set.

    :raises AirsmithError: `bad_recipe` if the value is not a positive integer.
    """
    for given, value in recipe.serve.engine_args.items():
        if given.replace("_", "-") != name:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{given} in serve.engine_args is {value!r}, but graphs are compiled for a positive integer.",
            f"Use a number, for example {given}: {EXAMPLE_VALUES[name]}.",
        )
    return None


def server_size(instance_type: str, devices: int) -> PodSize:
    """Size of a server's pod, proportional to its devices because the compiler uses host memory."""
    return share_of_node(_instance(instance_type), devices)


def scheduler_of(instance_type: str, devices: int) -> str | None:
    """Scheduler of a server's pod; None for the default if the pod does not require neighboring devices."""
    is_whole = devices == _instance(instance_type).devices
    return None if is_whole or devices == 1 else SCHEDULER


def _device(instance_type: str) -> Device:
    """The device of an instance type.

    :raises AirsmithError: `bad_recipe` if the type is not in the table.
    """
    name = _instance(instance_type).device
    assert name is not None, "callers check that the type has Neuron devices"
    return instance_table().devices[name]


def _instance(instance_type: str) -> Instance:
    """The entry of an instance type.

    :raises AirsmithError: `bad_recipe` if the type is not in the table.
    """
    instance = instance_table().instances.get(instance_type)
    if instance is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The servers' instance type is {instance_type}, which is not in Airsmith's table of instances.",
            "Set serve.instance_type to a type that `backends/instances.yaml` contains.",
        )
    return instance
