"""NVIDIA GPUs. Written from the code of torch and its libraries; not run on a device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from airsmith.recipe import Recipe
from airsmith_stages.devices.gpu import GpuDevice

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12}


@dataclass(frozen=True)
class CudaDevice(GpuDevice):
    """A GPU that also supports 4-bit base models."""

    def loading_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """NF4 with double quantization for QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314)."""
        if recipe.method.name != "qlora":
            return {}
        import torch
        from transformers import BitsAndBytesConfig

        precision = recipe.training.precision
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, precision),
        )
        return {"quantization_config": quantization, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


DEVICE = CudaDevice(driver="NVIDIA's driver and device plugin", peak_flops=PEAK_FLOPS)
