"""What changes the graphs that a compiler makes of a training, and nothing else: the key of a compile cache.

A graph holds shapes, operations and the numbers 0, 1 and -1; any other number is an input to it. So a learning rate
changes no graph, while a weight decay of 0 leaves operations out (torch_xla's special scalars:
https://github.com/pytorch/xla/blob/v2.8.0/torch_xla/csrc/tensor_util.cpp, `IsSpecialScalar`). Not run on a device.
"""

from __future__ import annotations

import math
from typing import Any

from airsmith.contracts.spec import RunSpec
from airsmith.recipe.training import Method

FLASH_ROWS = 2048
"""Length of a tile of Neuron's attention kernel: a row is some of them, or is computed without it."""


def graph_determinants(spec: RunSpec) -> dict[str, Any]:
    """What of a run's recipe and plan its graphs depend on; the model's config and the versions come beside it."""
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
    """Whether a training that is compiled for rows of this length uses Neuron's kernel, which takes whole tiles."""
    return max_length % FLASH_ROWS == 0


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
    """What the delta of the layers of a pattern is multiplied by; of all others with an empty one."""
    rank = method.rank_pattern.get(pattern, method.r)
    return method.alpha_pattern.get(pattern, method.lora_alpha) / (math.sqrt(rank) if method.use_rslora else rank)
