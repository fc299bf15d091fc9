"""Maps a recipe to optimum-neuron's `NeuronTrainingArguments`, for compiling and for training.

Different arguments create different graphs: one function makes both, and two parameters are all that differs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from airsmith.contracts.spec import RunSpec

_ALWAYS: dict[str, Any] = {
    # With a sharded model, the library saves no optimizer state, or one that it cannot load.
    "save_only_model": True,
    "async_save": False,  # Else `done` is written before the files.
    "use_xser": True,
    "skip_cache_push": True,  # Pushing calls the Hub after the last step, which would fail the training.
    "fuse_qkv": False,  # With replicated key and value heads, loading loses LoRA on fused layers.
    "dataloader_drop_last": True,
    "dataloader_num_workers": 0,
    "remove_unused_columns": False,
    "label_names": ["labels"],
    "report_to": "none",
    "disable_tqdm": True,
    "log_level": "warning",
    "log_level_replica": "error",
}


def training_arguments(spec: RunSpec, output_dir: Path, max_steps: int, *, saves: bool = True) -> dict[str, Any]:
    """Keyword arguments of `NeuronTrainingArguments`. Reports and the Hub are disabled.

    :param output_dir: an empty folder; the library would resume from a checkpoint in it.
    :param max_steps: total number of optimizer steps.
    :param saves: whether to save checkpoints.
    """
    training, batch, parallel = spec.recipe.training, spec.plan.batch, spec.plan.parallel
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": batch.per_device_train_batch_size,
        "per_device_eval_batch_size": batch.per_device_train_batch_size,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        "max_steps": max_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": math.ceil(max_steps * training.warmup) if training.warmup < 1 else int(training.warmup),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
        "logging_steps": training.logging_steps,
        "save_strategy": "steps" if saves else "no",
        "save_steps": training.save_steps,
        "tensor_parallel_size": parallel.tensor,
        "pipeline_parallel_size": parallel.pipeline,
        **_ALWAYS,
        **_precision(training.precision),
        **_checkpointing(training.gradient_checkpointing),
    }


def _precision(precision: str) -> dict[str, Any]:
    """Arguments for the precision: weights in bfloat16 use stochastic rounding and ZeRO-1's float32 master weights.

    With float32, ZeRO-1 is disabled: it would keep its master weights in bfloat16.
    """
    is_half = precision == "bfloat16"
    return {
        "bf16": is_half,
        "stochastic_rounding_enabled": is_half,
        "zero_1": is_half,
        "optimizer_use_master_weights": is_half,
        "optimizer_use_fp32_grad_acc": is_half,
        "optim": "adamw_torch",
    }


def _checkpointing(enabled: bool) -> dict[str, Any]:
    # By default, the library does not set `use_reentrant`.
    return {
        "gradient_checkpointing": enabled,
        "gradient_checkpointing_kwargs": {"use_reentrant": True} if enabled else None,
    }
