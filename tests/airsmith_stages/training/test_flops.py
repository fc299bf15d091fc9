"""What a training computes per token, counted by hand for one model."""

from __future__ import annotations

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from airsmith_stages.training.flops import Arithmetic, count_flops_per_token

HIDDEN, INNER, LAYERS, WORDS, RANK = 32, 48, 2, 61, 4
MATRICES = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER) + HIDDEN * WORDS
ADAPTERS = LAYERS * RANK * (4 * (HIDDEN + HIDDEN) + 3 * (HIDDEN + INNER))
LENGTHS = np.array([10, 30])
# A token of a sample of n sees n / 2 others on average; a longer sample has more tokens.
SEEN = (10 * 5 + 30 * 15) / 40
ATTENTION = 12 * SEEN * HIDDEN * LAYERS


def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS,
            num_attention_heads=4,
        )
    )  # fmt: skip


def test_a_frozen_weight_counts_4_and_a_trained_one_6() -> None:
    base = model()
    adapted = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear"))
    expected = 4 * MATRICES + 6 * ADAPTERS + ATTENTION
    assert count_flops_per_token(adapted, base, LENGTHS) == pytest.approx(expected)


def test_all_parameters_count_6() -> None:
    base = model()
    assert count_flops_per_token(base, base, LENGTHS) == pytest.approx(6 * MATRICES + ATTENTION)


def test_the_share_of_the_peak_is_of_one_device() -> None:
    columns = Arithmetic(flops_per_token=2e9, peak_flops_per_second=100e12).columns(tokens_per_second=40_000, devices=2)
    assert columns == {"tflops_per_second": 40.0, "mfu": 0.4}
    assert "mfu" not in Arithmetic(2e9, None).columns(40_000, 2)
