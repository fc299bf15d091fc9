"""NVIDIA and AMD GPUs: torch's device type is `cuda` for both."""

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

    :param driver: the software that a node requires, for the error message if no GPU is found.
    :param peak_flops: peak FLOPS of one device with 16-bit numbers, without sparsity, by a part of the device's name.
        Source: the vendors' data sheets.
    """

    driver: str
    peak_flops: Mapping[str, float] = field(default_factory=dict)
    torch_device: str = "cuda"
    process_group_backend: str = "nccl"
    training_module: str = TORCH_TRAINING
    launcher: str = ""

    @property
    def attn_implementation(self) -> str:
        """FlashAttention, which needs no mask for packed rows, if it is installed; else torch's kernels."""
        return "flash_attention_2" if find_spec("flash_attn") else "sdpa"

    def prepare(self) -> None:
        """Select the GPU of this process's local rank, and make all operations deterministic.

        :raises AirsmithError: `device_error` if this process has no GPU.
        """
        # cuBLAS is deterministic only with a workspace of a fixed size; it reads this variable when it is loaded.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        import torch

        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.device_count() <= local_rank:
            raise AirsmithError(
                ErrorKind.DEVICE_ERROR,
                f"The process of local rank {local_rank} has no GPU: torch sees {torch.cuda.device_count()}.",
                f"Give the pod as many devices as backend.devices specifies, on a node with {self.driver}.",
            )
        torch.cuda.set_device(local_rank)
        torch.use_deterministic_algorithms(True)
        # Filling memory that is overwritten later takes time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def training_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Autocast if the precision is a 16-bit type, and Liger's kernels if they are installed."""
        return {
            "bf16": recipe.training.precision == "bfloat16",
            "fp16": recipe.training.precision == "float16",
            "optim": "adamw_torch_fused",
            "use_liger_kernel": self.fuses_loss(),
        }

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """No arguments."""
        return {}

    def fuses_loss(self) -> bool:
        """Whether Liger is installed: it fuses the output head with the loss, and norms, MLP and rotary embeddings."""
        return find_spec("liger_kernel") is not None

    def peak_flops_per_second(self, precision: str) -> float | None:
        """The peak with 16-bit numbers; None for float32 and for devices that are not in the table."""
        import torch

        if precision == "float32":
            return None
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in self.peak_flops.items() if part in name), None)

    def peak_memory_bytes(self) -> int:
        """Peak device memory of this process's tensors."""
        import torch

        return torch.cuda.max_memory_allocated()
