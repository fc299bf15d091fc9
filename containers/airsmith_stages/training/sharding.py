"""Full-parameter training on several devices: each holds a part of every parameter (FSDP2)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from airsmith_stages.training.model import TrainableModel, fingerprints


def shard(model: TrainableModel, precision: str) -> TrainableModel:
    """Spread a model's parameters over all processes, block by block. Each must hold the same model.

    :param precision: data type of the forward and backward pass; gradients are summed in float32.
    """
    dtype = None if precision == "float32" else getattr(torch, precision)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32)
    blocks = set(model.base._no_split_modules or ())
    for module in model.base.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mp_policy=policy)
    fully_shard(model.base, mp_policy=policy)
    return replace(model, untrained=fingerprints(model.module))
