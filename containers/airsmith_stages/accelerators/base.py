"""What a stage asks of an accelerator."""

from __future__ import annotations

from typing import Any, Protocol


class Accelerator(Protocol):
    """One family of hardware, as the code that computes on it sees it.

    :ivar device: torch's name of the device.
    :ivar attn_implementation: the attention kernel that transformers is to use.
    :ivar process_group_backend: torch's name of what carries tensors between its devices.
    """

    device: str
    attn_implementation: str
    process_group_backend: str

    def prepare(self) -> None:
        """Set up this process. Called once, before anything imports torch, and itself imports it."""

    def training_arguments(self, precision: str) -> dict[str, Any]:
        """The fields of transformers' `TrainingArguments` that depend on the hardware.

        :param precision: data type of the forward and backward pass.
        """
