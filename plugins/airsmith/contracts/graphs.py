"""The key of a compile cache: exactly what changes the compiled graphs of a training.

A graph contains shapes, operations and the constants 0, 1 and -1; any other number is an input of the graph. So a
learning rate changes no graph, while a weight decay of 0 removes operations (torch_xla's special scalars:
https://github.com/pytorch/xla/blob/v2.8.0/torch_xla/csrc/tensor_util.cpp, `IsSpecialScalar`). Not run on a device.
"""

from __future__ import annotations

import math
from typing import Any

from airsmith.contracts.spec import RunSpec
from airsmith.recipe.training import Method

FLASH_TILE = 2048
"""Tile length, in tokens, of Neuron's attention kernel; other row lengths are computed without the kernel."""


def graph_determinants(spec: RunSpec) -> dict[str, Any]:
    """The values of a run's recipe and plan that its graphs depend on, besides the model's config and the toolchain."""
    recipe, batch, parallel = spec.recipe, spec.plan.batch, spec.plan.parallel
    training, method = recipe.training, recipe.method
    return {
        "backend": recipe.backend.name,
        "instance_family": (recipe.backend.instance_type or "").partition(".")[0],
        "rows": [batch.per_device_train_batch_size, recipe.dataset.max_length],
        "accumulates": batch.gradient_accumulation_steps > 1,
        "parallel": [batch.data_parallel_size, parallel.tensor, parallel.pipeline],
        "micro_batches": batch.gradient_accumulation_steps if parallel.pipeline > 1 else 1,
        "dtype": recipe.model.dtype,
        "precision": training.precision,
        "gradient_checkpointing": training.gradient_checkpointing,
        "warms_up": training.warmup > 0 and training.lr_scheduler_type != "constant",
        "decays": training.weight_decay > 0,
        "clips_at_one": training.max_grad_norm == 1,
        "adapter": None if method.name == "full" else _adapter(method),
    }


def uses_flash_attention(max_length: int) -> bool:
    """Whether a training compiled for this row length uses Neuron's attention kernel, which requires whole tiles."""
    return max_length % FLASH_TILE == 0


def _adapter(method: Method) -> dict[str, Any]:
    patterns = ("", *sorted({*method.rank_pattern, *method.alpha_pattern}))
    return {
        "r": method.r,
        "rank_pattern": dict(method.rank_pattern),
        "target_modules": sorted(method.target_modules),
        "drops": method.lora_dropout > 0,
        "scales_by_one": [pattern for pattern in patterns if _scale(method, pattern) == 1],
    }


def _scale(method: Method, pattern: str) -> float:
    """The LoRA scale of the layers that match a pattern; for an empty pattern, of all other layers."""
    rank = method.rank_pattern.get(pattern, method.r)
    return method.alpha_pattern.get(pattern, method.lora_alpha) / (math.sqrt(rank) if method.use_rslora else rank)
