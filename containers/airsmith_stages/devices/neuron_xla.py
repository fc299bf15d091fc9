"""AWS Trainium 1 and 2 with PyTorch/XLA and optimum-neuron. Not run on a device.

The launcher sets the process's environment (`airsmith_stages.neuron.environment`); torch_xla selects its NeuronCore.
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
    """One logical NeuronCore per process. Only training uses it; other stages use another device."""

    torch_device: str = "xla"
    attn_implementation: str = "eager"
    process_group_backend: str = "xla"
    training_module: str = "airsmith_stages.neuron.training"
    launcher: str = "airsmith_stages.neuron.launcher"

    def prepare(self) -> None:
        """Check that the libraries for the device are installed.

        :raises AirsmithError: `device_error` if one is missing.
        """
        missing = [name for name in ("torch_xla", "torch_neuronx", "neuronx_distributed") if find_spec(name) is None]
        if missing:
            raise AirsmithError(
                ErrorKind.DEVICE_ERROR,
                f"{', '.join(missing)} is not installed in this stage's environment, but NeuronCores require it.",
                "Use an image based on the Neuron training image of AWS or Hugging Face.",
            )

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """No arguments: transformers' Trainer is not used."""
        return {}

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """No arguments: transformers' models are not used."""
        return {}

    def fuses_loss(self) -> bool:
        """True: optimum-neuron computes the loss."""
        return True

    def peak_flops_per_second(self, precision: str) -> float | None:
        """None: optimum-neuron reports MFU with its own convention."""
        return None

    def peak_memory_bytes(self) -> int:
        """Peak resident memory on the host: the device's memory is not available in this process."""
        return peak_resident_bytes()


DEVICE = NeuronXlaDevice()
