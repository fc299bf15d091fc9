"""What NVIDIA's and AMD's GPUs have in common: torch drives both under the name `cuda`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith_stages.devices.base import TORCH_TRAINING


@dataclass(frozen=True)
class GpuDevice:
    """One GPU per process.

    :param driver: what a node must have, for the error where it has not.
    :param peak_flops: what one device computes at most in a second with 16-bit numbers, without sparsity, by a part of
        its name; from the vendors' data sheets.
    """

    driver: str
    peak_flops: Mapping[str, float] = field(default_factory=dict)
    torch_device: str = "cuda"
    process_group_backend: str = "nccl"
    training_module: str = TORCH_TRAINING
    launcher: str = ""

    @property
    def attn_implementation(self) -> str:
        """FlashAttention, which takes packed rows without a mask, where the image has it; else torch's own kernels."""
        return "flash_attention_2" if find_spec("flash_attn") else "sdpa"

    def prepare(self) -> None:
        """Take this process's device, and make each operation give the same result every time.

        :raises AirsmithError: `device_error` where there is none.
        """
        # cuBLAS is reproducible with a work space of a fixed size only; it reads this when it is loaded.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        import torch

        number = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.device_count() <= number:
            raise AirsmithError(
                ErrorKind.DEVICE_ERROR,
                f"Process {number} of this node has no GPU: torch sees {torch.cuda.device_count()}.",
                f"Give the pod as many devices as backend.devices says, on a node with {self.driver}.",
            )
        torch.cuda.set_device(number)
        torch.use_deterministic_algorithms(True)
        # Filling memory that is overwritten anyway costs time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Autocast to 16 bits where asked for, and Liger's kernels where the image has them."""
        return {
            "bf16": recipe.training.precision == "bfloat16",
            "fp16": recipe.training.precision == "float16",
            "optim": "adamw_torch_fused",
            "use_liger_kernel": self.fuses_loss(),
        }

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Nothing beside the data type."""
        return {}

    def fuses_loss(self) -> bool:
        """Whether Liger is there: its kernels put head and loss in one, and norms, MLP and rotary positions each."""
        return find_spec("liger_kernel") is not None

    def peak_flops_per_second(self, precision: str) -> float | None:
        """What the vendor says of 16-bit numbers; None for float32, and for a device that the table does not know."""
        import torch

        if precision == "float32":
            return None
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in self.peak_flops.items() if part in name), None)

    def peak_memory_bytes(self) -> int:
        """Most memory of the device that tensors have taken."""
        import torch

        return torch.cuda.max_memory_allocated()
