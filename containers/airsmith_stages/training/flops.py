"""How much a training computes per token, and what share of its hardware's arithmetic that is.

The convention is LoRA's: of each weight of a matrix, 4 operations per token where it is frozen (forward, and the
gradient of its input) and 6 where it is trained (its own gradient as well; Kaplan et al. 2020,
https://arxiv.org/abs/2001.08361, section 2.1), and causal attention over the tokens that a token sees, on average. What
is computed twice by gradient checkpointing counts once: it is the model's arithmetic and not the hardware's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

FROZEN, TRAINED = 4, 6
_OF_SCORES_AND_VALUES = 2 * 2 * 3
"""Operations per token that is seen and element of the queries: two products, each two operations, forward and twice
as many backward."""


@dataclass(frozen=True)
class Arithmetic:
    """What a training computes.

    :param flops_per_token: on average.
    :param peak_flops_per_second: of one device; None where nobody says.
    """

    flops_per_token: float
    peak_flops_per_second: float | None

    def columns(self, tokens_per_second: float, devices: int) -> dict[str, float]:
        """The rows' columns: arithmetic of one device, and its share of the device's peak where that is known."""
        per_device = self.flops_per_token * tokens_per_second / devices
        columns = {"tflops_per_second": round(per_device / 1e12, 6)}
        if self.peak_flops_per_second is not None:
            columns["mfu"] = round(per_device / self.peak_flops_per_second, 4)
        return columns


def count_flops_per_token(module: nn.Module, base: PreTrainedModel, sample_lengths: NDArray[np.int64]) -> float:
    """Operations of one token's forward and backward pass.

    :param module: the model that is trained, with what LoRA has added.
    :param sample_lengths: tokens that see each other, by sample.
    """
    matrices = [each for each in module.modules() if isinstance(each, nn.Linear)]
    of_matrices = sum(
        each.in_features * each.out_features * (TRAINED if each.weight.requires_grad else FROZEN) for each in matrices
    )
    config = base.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    seen = float((sample_lengths.astype(np.float64) ** 2).sum() / sample_lengths.sum()) / 2
    attention = _OF_SCORES_AND_VALUES * seen * width * config.num_attention_heads * config.num_hidden_layers
    return of_matrices + attention
