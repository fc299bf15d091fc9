"""Full fine-tuning on several devices: every parameter is sharded over all ranks (FSDP2)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.training.model import TrainableModel, fingerprints


def shard(model: TrainableModel, precision: str) -> TrainableModel:
    """Shard a model's parameters over all ranks, block by block. All ranks must have loaded the same model.

    :param precision: data type of the forward and backward pass; gradients are reduced in float32.
    :raises AirsmithError: `bad_recipe` for a model whose tensors differ from those in its files.
    """
    _check_not_converted(model.base)
    dtype = None if precision == "float32" else getattr(torch, precision)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32)
    blocks = set(model.base._no_split_modules or ())
    for module in model.base.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mp_policy=policy)
    fully_shard(model.base, mp_policy=policy)
    return replace(model, untrained=fingerprints(model.module))


def _check_not_converted(base: PreTrainedModel) -> None:
    """Check that loading did not convert tensors: of fused experts, transformers cannot convert shards back."""
    conversions = getattr(base, "_weight_conversions", None) or ()
    if any(isinstance(conversion, WeightConverter) for conversion in conversions):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.name 'full' on several devices does not support {base.config.model_type} models: transformers "
            "converts their tensors when it loads them, and cannot convert shards back.",
            "Set method.name to 'lora', or backend.devices and backend.nodes to 1.",
        )
