"""What a stage asks of an device."""

from __future__ import annotations

from typing import Any, Protocol

from airsmith.recipe import Recipe

TORCH_TRAINING = "airsmith_stages.training.stage"
"""The module that trains on what torch drives itself."""


class Device(Protocol):
    """One family of hardware, as the code that computes on it sees it.

    :ivar training_module: the module whose `train` trains on it.
    :ivar torch_device: torch's name of the device.
    :ivar attn_implementation: the attention kernel that transformers is to use.
    :ivar process_group_backend: torch's name of what carries tensors between its devices.
    :ivar launcher: the module whose `launch` starts the processes on a node; torchrun in this process where empty.
    """

    training_module: str
    torch_device: str
    attn_implementation: str
    process_group_backend: str
    launcher: str

    def prepare(self) -> None:
        """Set up this process. Called once, before anything imports torch, and itself imports it."""

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """The fields of transformers' `TrainingArguments` that depend on the hardware."""

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """What `from_pretrained` is told beside the model's folder and data type."""

    def fuses_loss(self) -> bool:
        """Whether the loss is the model's own, or that of kernels of transformers', and not computed in chunks."""

    def peak_flops_per_second(self, precision: str) -> float | None:
        """What the vendor says that one device computes at most, without sparsity; None where nobody says."""

    def peak_memory_bytes(self) -> int:
        """Most memory that this process has taken, of the device or, where it has none of its own, of the host."""
