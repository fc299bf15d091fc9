"""The interface of a device."""

from __future__ import annotations

from typing import Any, Protocol

from airsmith.recipe import Recipe

TORCH_TRAINING = "airsmith_stages.training.stage"
"""The training module for devices that torch supports natively."""


class Device(Protocol):
    """A family of accelerators, or the CPU.

    :ivar training_module: the module whose `train` function trains on the device.
    :ivar torch_device: torch's device type.
    :ivar attn_implementation: transformers' name of the attention kernel to use.
    :ivar process_group_backend: torch's name of the process group backend for tensors on the device.
    :ivar launcher: the module whose `launch` function starts the processes on a node; if empty, torchrun runs in this
        process.
    """

    training_module: str
    torch_device: str
    attn_implementation: str
    process_group_backend: str
    launcher: str

    def prepare(self) -> None:
        """Set up this process. Must be called once, before anything imports torch; it imports torch itself."""

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """The fields of transformers' `TrainingArguments` that depend on the hardware."""

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Arguments of `from_pretrained` in addition to the model's folder and data type."""

    def fuses_loss(self) -> bool:
        """Whether to keep the loss of the model or of its fused kernels, and not compute it in chunks."""

    def peak_flops_per_second(self, precision: str) -> float | None:
        """The vendor's peak of one device, without sparsity; None if unknown."""

    def peak_memory_bytes(self) -> int:
        """Peak memory of this process: of the device, or of the host if the device's is not available."""
