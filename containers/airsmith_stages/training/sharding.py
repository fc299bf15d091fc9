"""Full-parameter training on several devices: each holds a part of every parameter (FSDP2)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.training.model import TrainableModel, fingerprints


def shard(model: TrainableModel, precision: str) -> TrainableModel:
    """Spread a model's parameters over all processes, block by block. Each must hold the same model.

    :param precision: data type of the forward and backward pass; gradients are summed in float32.
    :raises AirsmithError: `bad_recipe` for a model whose files hold other tensors than it computes with.
    """
    _refuse_converted(model.base)
    dtype = None if precision == "float32" else getattr(torch, precision)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32)
    blocks = set(model.base._no_split_modules or ())
    for module in model.base.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mp_policy=policy)
    fully_shard(model.base, mp_policy=policy)
    return replace(model, untrained=fingerprints(model.module))


def _refuse_converted(base: PreTrainedModel) -> None:
    """transformers fuses the experts of some families while it loads them, and can part whole ones again only."""
    conversions = getattr(base, "_weight_conversions", None) or ()
    if any(isinstance(conversion, WeightConverter) for conversion in conversions):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.name is 'full' on several devices, but the files of a {base.config.model_type} model hold its "
            "tensors in another form than it computes with, and parts of them cannot be turned back.",
            "Set method.name to 'lora', or backend.devices and backend.nodes to 1.",
        )
