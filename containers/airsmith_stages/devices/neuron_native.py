"""AWS Trainium 2 and 3 as a native torch device (TorchNeuron). Experimental: not run on a device.

The names of the device, its package and its process group backend are those of AWS's documentation of Neuron 2.33:
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/torch/index.html (device `neuron`, which torch discovers if
`torch_neuronx` is installed) and https://awsdocs-neuron.readthedocs-hosted.com/en/latest/torch/guides/torch-distributed.html
(process group backend `neuron`). accelerate 1.15 and transformers 5 support the device under the same name.
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
    """One logical NeuronCore per process.

    :ivar torch_device: `neuron`; with `cpu` the same code runs on the host.
    """

    torch_device: str = NEURON
    attn_implementation: str = "sdpa"
    process_group_backend: str = NEURON
    training_module: str = TORCH_TRAINING
    launcher: str = ""

    def prepare(self) -> None:
        """Select the NeuronCore of this process's local rank.

        :raises AirsmithError: `device_error` if this process has no NeuronCore.
        """
        import torch

        if self.torch_device == NEURON:
            _select_core(int(os.environ.get("LOCAL_RANK", "0")))
        torch.use_deterministic_algorithms(True, warn_only=self.torch_device == NEURON)

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Autocast if the precision is bfloat16; Liger's kernels and the fused optimizer require a GPU."""
        return {
            "use_cpu": self.torch_device == "cpu",
            "bf16": recipe.training.precision == "bfloat16",
            "optim": "adamw_torch",
            "dataloader_pin_memory": False,
        }

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """No arguments."""
        return {}

    def fuses_loss(self) -> bool:
        """True: the chunked loss selects the rows with labels, whose number, and so the graph, differs per batch."""
        return True

    def peak_flops_per_second(self, precision: str) -> float | None:
        """None: the type of the chip and the number of physical cores per logical core are not available."""
        return None

    def peak_memory_bytes(self) -> int:
        """Peak device memory of this process's tensors."""
        import torch

        # https://awsdocs-neuron.readthedocs-hosted.com/en/latest/torch/guides/memory-profiling-guide.html
        return int(torch.neuron.max_memory_allocated()) if self.torch_device == NEURON else peak_resident_bytes()


def _select_core(local_rank: int) -> None:
    import torch

    found = torch.accelerator.current_accelerator()
    cores = torch.accelerator.device_count() if found is not None and found.type == NEURON else 0
    if cores <= local_rank:
        raise AirsmithError(
            ErrorKind.DEVICE_ERROR,
            f"The process of local rank {local_rank} has no NeuronCore: torch sees {cores}.",
            "Give the pod as many devices as backend.devices specifies, on a node with the Neuron device plugin, and "
            "use an image whose `torch_neuronx` matches its torch.",
        )
    torch.accelerator.set_device_index(local_rank)


DEVICE = NeuronNativeDevice()
