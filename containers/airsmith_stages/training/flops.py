"""The FLOPs of a training per token, and its model FLOPs utilization (MFU).

Each weight of a matrix counts 4 operations per token if it is frozen (forward, and the gradient of its input) and 6 if
it is trained (also its own gradient; Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1), plus causal
attention over the average number of tokens that a token attends to. Operations that gradient checkpointing repeats
count once: these are the model's FLOPs and not the hardware's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

FROZEN, TRAINED = 4, 6
_ATTENTION = 2 * 2 * 3
"""Operations per attended token and element of the queries: two products of two operations each, forward, and twice as
many backward."""


@dataclass(frozen=True)
class TrainingFlops:
    """The FLOPs of a training.

    :param flops_per_token: average number of operations per token.
    :param peak_flops_per_second: of one device; None if unknown.
    """

    flops_per_token: float
    peak_flops_per_second: float | None

    def columns(self, tokens_per_second: float, devices: int) -> dict[str, float]:
        """Columns of a history row: TFLOPS per device and, if the device's peak is known, MFU."""
        per_device = self.flops_per_token * tokens_per_second / devices
        columns = {"tflops_per_second": round(per_device / 1e12, 6)}
        if self.peak_flops_per_second is not None:
            columns["mfu"] = round(per_device / self.peak_flops_per_second, 4)
        return columns


def count_flops_per_token(module: nn.Module, base: PreTrainedModel, sample_lengths: NDArray[np.int64]) -> float:
    """Operations of one token's forward and backward pass.

    :param module: the model to train, including LoRA.
    :param sample_lengths: tokens per sample; a token attends only to its own sample.
    """
    matrices = [each for each in module.modules() if isinstance(each, nn.Linear)]
    matrices_flops = sum(
        each.in_features * each.out_features * (TRAINED if each.weight.requires_grad else FROZEN) for each in matrices
    )
    config = base.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attended = float((sample_lengths.astype(np.float64) ** 2).sum() / sample_lengths.sum()) / 2
    attention = _ATTENTION * attended * width * config.num_attention_heads * config.num_hidden_layers
    return matrices_flops + attention
