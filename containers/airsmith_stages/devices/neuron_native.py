"""AWS Trainium 2 and 3 as a device of torch's own (TorchNeuron). Experimental: not run on a device.

The device, its package and its process group are called as AWS's documentation of Neuron 2.33 has them:
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/torch/index.html (device `neuron`, which torch finds by itself
where `torch_neuronx` is installed) and https://awsdocs-neuron.readthedocs-hosted.com/en/latest/torch/guides/torch-distributed.html
(process group `neuron`). accelerate 1.15 and transformers 5 know the device under the same name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith_stages.devices.base import TORCH_TRAINING
from airsmith_stages.devices.cpu import peak_resident_bytes

NEURON = "neuron"


@dataclass(frozen=True)
class NeuronNativeDevice:
    """One logical core of a Trainium per process.

    :ivar torch_device: `neuron`; with `cpu` the same code computes on the host.
    """

    torch_device: str = NEURON
    attn_implementation: str = "sdpa"
    process_group_backend: str = NEURON
    training_module: str = TORCH_TRAINING
    launcher: str = ""

    def prepare(self) -> None:
        """Take this process's core.

        :raises AirsmithError: `device_error` where there is none.
        """
        import torch

        if self.torch_device == NEURON:
            _take_core(int(os.environ.get("LOCAL_RANK", "0")))
        torch.use_deterministic_algorithms(True, warn_only=self.torch_device == NEURON)

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Autocast to bfloat16 where asked for; Liger's kernels and the optimizer's fused ones are for GPUs."""
        return {
            "use_cpu": self.torch_device == "cpu",
            "bf16": recipe.training.precision == "bfloat16",
            "optim": "adamw_torch",
            "dataloader_pin_memory": False,
        }

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Nothing beside the data type."""
        return {}

    def fuses_loss(self) -> bool:
        """The model's own loss: one of the rows with labels alone has another shape to compile in every batch."""
        return True

    def peak_flops_per_second(self, precision: str) -> float | None:
        """Nothing tells which chip it is and how many of its cores a logical one has."""
        return None

    def peak_memory_bytes(self) -> int:
        """Most memory of the device that tensors have taken."""
        import torch

        # https://awsdocs-neuron.readthedocs-hosted.com/en/latest/torch/guides/memory-profiling-guide.html
        return int(torch.neuron.max_memory_allocated()) if self.torch_device == NEURON else peak_resident_bytes()


def _take_core(number: int) -> None:
    import torch

    found = torch.accelerator.current_accelerator()
    cores = torch.accelerator.device_count() if found is not None and found.type == NEURON else 0
    if cores <= number:
        raise AirsmithError(
            ErrorKind.DEVICE_ERROR,
            f"Process {number} of this node has no NeuronCore: torch sees {cores}.",
            "Give the pod as many devices as backend.devices says, on a node with the Neuron device plugin, and use an "
            "image in which `torch_neuronx` fits torch.",
        )
    torch.accelerator.set_device_index(number)


DEVICE = NeuronNativeDevice()
