"""The recipe in the words of optimum-neuron's `NeuronTrainingArguments`: one function, for compiling and for training.

Two things that differ would be two graphs. So what compiling does differently is said here by two parameters.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from airsmith.contracts.spec import RunSpec

_ALWAYS: dict[str, Any] = {
    # Beside parts of a model the library would store no optimizer's state, or one that it cannot read back.
    "save_only_model": True,
    "async_save": False,  # `done` would come before the files.
    "use_xser": True,
    "skip_cache_push": True,  # Pushing ends with a call of the Hub that fails a training that is over.
    "fuse_qkv": False,  # With copied key and value heads, LoRA on fused layers is lost when it is loaded back.
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
    """Keyword arguments of `NeuronTrainingArguments`. What it is not told, it does not do: no reports and no Hub.

    :param output_dir: an empty folder; the library goes on from a checkpoint that it finds there.
    :param max_steps: optimizer steps in all.
    :param saves: whether there are checkpoints.
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
    """Weights in bfloat16 are rounded at random, and updated as copies in float32, which ZeRO-1's optimizer has.

    With float32 that optimizer would keep its copies in bfloat16.
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
    # Without arguments of its own the library passes None on, which is none.
    return {
        "gradient_checkpointing": enabled,
        "gradient_checkpointing_kwargs": {"use_reentrant": True} if enabled else None,
    }
