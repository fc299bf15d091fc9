"""vLLM's plugins for AWS Neuron: which serves on which instances, how large its pods are, and what it cannot do.

Two are published, each for devices that the other does not serve on; not run on a device.

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
from airsmith.recipe.operation import not_on_neuron

ROW_MULTIPLE = 128
"""Lengths are compiled in multiples of this."""
LENGTH, AT_ONCE = "max-model-len", "max-num-seqs"
EXAMPLES = {LENGTH: 4096, AT_ONCE: 8}
SEQUENCES = 8
"""Sequences that are answered at once, where the recipe does not say: the graphs of each number are compiled."""


@dataclass(frozen=True)
class NeuronPlugin:
    """One of vLLM's plugins.

    :param image: name of the image in the settings; a vendor's, by its reference.
    :param families: instance families whose devices it serves on.
    :param exports: whether the model is compiled by a command of its own before vLLM can load it: optimum-neuron's
        asks the Hub for compiled graphs whenever it is given a plain model, and a server has no way out to the Hub
        (`optimum/neuron/vllm/model_loader.py`).
    :param drains: whether its vLLM is new enough to be given a time for the requests in flight when it ends.
    """

    image: str
    families: tuple[str, ...]
    exports: bool
    drains: bool


VLLM_NEURON = NeuronPlugin("vllm-neuron", families=("trn2", "trn3"), exports=False, drains=True)
OPTIMUM = NeuronPlugin("vllm-optimum-neuron", families=("inf2", "trn1", "trn1n"), exports=True, drains=False)
_PLUGINS = (VLLM_NEURON, OPTIMUM)


def plugin_of(instance_type: str) -> NeuronPlugin:
    """The plugin that serves on an instance type.

    :raises AirsmithError: `bad_recipe` where none does.
    """
    family = instance_type.partition(".")[0]
    for plugin in _PLUGINS:
        if family in plugin.families:
            return plugin
    known = ", ".join(sorted(name for plugin in _PLUGINS for name in plugin.families))
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"The servers' instance type is {instance_type}, on which no plugin of vLLM's for Neuron serves.",
        f"Set serve.instance_type to one of the families {known}, or serve.engine to 'vllm' for plain CPUs.",
    )


def check_neuron(recipe: Recipe, instance_type: str | None, devices: int) -> None:
    """Refuse what no plugin serves.

    :param instance_type: of the servers.
    :param devices: of one server.
    :raises AirsmithError: `bad_recipe`, with the reason and what works.
    """
    for refusal in not_on_neuron(recipe.serve):
        reason, _, remedy = refusal.rpartition(": ")
        raise AirsmithError(ErrorKind.BAD_RECIPE, f"{reason}.", f"{remedy[0].upper()}{remedy[1:]}.")
    if instance_type is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "Neither serve.instance_type nor backend.instance_type says which instances serve: the plugin of vLLM, and "
            "the cores that a model is shared out to, depend on it.",
            "Set serve.instance_type, for example to trn2.3xlarge or inf2.xlarge.",
        )
    plugin_of(instance_type)
    instance = _instance(instance_type)
    possible = instance.parts or range(1, instance.devices + 1)
    if devices not in possible:
        fewer = max((part for part in possible if part < devices), default=min(possible))
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"A server is to have {devices} devices, but of {instance_type}, which has {instance.devices}, no pod gets "
            "so many.",
            f"Set serve.devices to {fewer}, or serve.instance_type to another one.",
        )


def logical_cores(instance_type: str) -> int:
    """Cores of one device, as the runtime shows them."""
    return _device(instance_type).logical_cores


def neuron_environment(instance_type: str) -> Mapping[str, str]:
    """What makes the runtime show as many cores as the model is shared out to."""
    together = _device(instance_type).cores_per_logical
    return {"NEURON_LOGICAL_NC_CONFIG": str(together)} if together > 1 else {}


def shape_of(recipe: Recipe) -> tuple[int, int]:
    """The longest sequence and the most of them at once, which are compiled: the recipe's, else as the model was tuned.

    vLLM's own default is the longest that the model could take, which for many does not fit a device.
    """
    longest = recipe.dataset.max_length + recipe.evaluate.max_new_tokens
    rows = -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE
    return _given(recipe, LENGTH) or rows, _given(recipe, AT_ONCE) or SEQUENCES


def shape_arguments(recipe: Recipe) -> tuple[str, ...]:
    """What vLLM is told of the shape, as far as the recipe does not say it itself."""
    told = zip((LENGTH, AT_ONCE), shape_of(recipe), strict=True)
    return tuple(text for name, value in told if not _given(recipe, name) for text in (f"--{name}", str(value)))


def _given(recipe: Recipe, name: str) -> int | None:
    """A number among the recipe's arguments.

    :raises AirsmithError: `bad_recipe` where it is none.
    """
    for given, value in recipe.serve.engine_args.items():
        if given.replace("_", "-") != name:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{given} of serve.engine_args is {value!r}, but graphs are compiled for a number of tokens or sequences.",
            f"Write a number, for example {given}: {EXAMPLES[name]}.",
        )
    return None


def server_size(instance_type: str, devices: int) -> PodSize:
    """A server's share of a node, by its devices: the compiler needs the host's memory."""
    return share_of_node(_instance(instance_type), devices)


def scheduler_of(instance_type: str, devices: int) -> str | None:
    """What finds a server's pod a place; the cluster's own where it needs no neighbouring devices."""
    is_whole = devices == _instance(instance_type).devices
    return None if is_whole or devices == 1 else SCHEDULER


def _device(instance_type: str) -> Device:
    """The device of an instance type.

    :raises AirsmithError: `bad_recipe` where the table has none.
    """
    name = _instance(instance_type).device
    assert name is not None, "of a family of Neuron's"
    return instance_table().devices[name]


def _instance(instance_type: str) -> Instance:
    """The row of an instance type.

    :raises AirsmithError: `bad_recipe` where the table has none.
    """
    instance = instance_table().instances.get(instance_type)
    if instance is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The servers' instance type is {instance_type}, whose devices and cores Airsmith's table does not have.",
            "Set serve.instance_type to one that `backends/instances.yaml` names.",
        )
    return instance
