"""The FLOPs per token of a training, calculated by hand for one model."""

from __future__ import annotations

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from airsmith_stages.training.flops import TrainingFlops, count_flops_per_token

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, RANK = 32, 48, 2, 61, 4
MATRICES = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE) + HIDDEN * VOCABULARY
ADAPTERS = LAYERS * RANK * (4 * (HIDDEN + HIDDEN) + 3 * (HIDDEN + INTERMEDIATE))
LENGTHS = np.array([10, 30])
# A token of a sample of n attends to n / 2 others on average; weighted by tokens.
MEAN_CONTEXT = (10 * 5 + 30 * 15) / 40
ATTENTION = 12 * MEAN_CONTEXT * HIDDEN * LAYERS


def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS,
            num_attention_heads=4,
        )
    )  # fmt: skip


def test_a_frozen_weight_counts_4_flops_and_a_trained_one_6() -> None:
    base = model()
    adapted = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear"))
    expected = 4 * MATRICES + 6 * ADAPTERS + ATTENTION
    assert count_flops_per_token(adapted, base, LENGTHS) == pytest.approx(expected)


def test_full_training_counts_6_flops_per_parameter() -> None:
    base = model()
    assert count_flops_per_token(base, base, LENGTHS) == pytest.approx(6 * MATRICES + ATTENTION)


def test_mfu_is_the_fraction_of_the_peak_per_device() -> None:
    columns = TrainingFlops(flops_per_token=2e9, peak_flops_per_second=100e12).columns(
        tokens_per_second=40_000, devices=2
    )
    assert columns == {"tflops_per_second": 40.0, "mfu": 0.4}
    assert "mfu" not in TrainingFlops(2e9, None).columns(40_000, 2)
