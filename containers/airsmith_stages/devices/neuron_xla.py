"""AWS Trainium 1 and 2 by PyTorch/XLA, with optimum-neuron. Not run on a device.

The process gets its environment before it starts (`airsmith_stages.neuron.environment`), and its core from torch_xla.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith_stages.devices.cpu import peak_resident_bytes


@dataclass(frozen=True)
class NeuronXlaDevice:
    """One logical core of a Trainium per process. It trains; whatever else computes uses another device."""

    torch_device: str = "xla"
    attn_implementation: str = "eager"
    process_group_backend: str = "xla"
    training_module: str = "airsmith_stages.neuron.training"
    launcher: str = "airsmith_stages.neuron.launcher"

    def prepare(self) -> None:
        """See that the image has what drives the device.

        :raises AirsmithError: `device_error` where it has not.
        """
        missing = [name for name in ("torch_xla", "torch_neuronx", "neuronx_distributed") if find_spec(name) is None]
        if missing:
            raise AirsmithError(
                ErrorKind.DEVICE_ERROR,
                f"{', '.join(missing)} is not installed where this stage runs, so that no NeuronCore can be driven.",
                "Use an image that is built on AWS's or Hugging Face's training image for Neuron.",
            )

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Nothing for transformers: its Trainer does not train here."""
        return {}

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Nothing for transformers: its models do not train here."""
        return {}

    def fuses_loss(self) -> bool:
        """The loss is the library's own."""
        return True

    def peak_flops_per_second(self, precision: str) -> float | None:
        """The library counts by its own convention."""
        return None

    def peak_memory_bytes(self) -> int:
        """Most of the host's memory: of the device's nothing in this process tells."""
        return peak_resident_bytes()


DEVICE = NeuronXlaDevice()
