"""Parameters and training memory, computed from published configs."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.decoder import read_decoder
from airsmith.pipeline.memory import GIBIBYTE, MemoryEstimate, estimate_memory
from airsmith.pipeline.plan import make_plan
from tests.support.model_configs import GEMMA3_1B, LLAMA_8B, MISTRAL_7B, QWEN3_8B, QWEN25_7B, SMOLLM2_135M
from tests.support.recipes import new_recipe


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_8B, 8_030_261_248),
        (QWEN25_7B, 7_615_616_512),
        (QWEN3_8B, 8_190_735_360),
        (MISTRAL_7B, 7_241_732_096),
        (GEMMA3_1B, 999_885_952),
        (SMOLLM2_135M, 134_515_008),
    ],
    ids=["llama-3.1-8b", "qwen2.5-7b", "qwen3-8b", "mistral-7b", "gemma-3-1b", "smollm2-135m"],
)
def test_parameters_match_the_published_numbers(config: dict[str, Any], parameters: int):
    assert read_decoder(config).parameters == parameters


def estimate(config: dict[str, Any], method: dict[str, Any], **training: Any) -> MemoryEstimate:
    recipe = new_recipe(
        method=method,
        training={"precision": "bfloat16", "max_per_device_train_batch_size": 1, **training},
        backend={"name": "cuda"},
    )
    return estimate_memory(read_decoder(config), recipe, make_plan(recipe).batch)


def test_lora_trains_only_its_matrices():
    memory = estimate(LLAMA_8B, {"r": 16})
    assert memory.trained == 41_943_040  # as peft prints for r=16 on all linear layers of Llama 3.1 8B
    assert memory.weights == 2 * memory.parameters + 4 * memory.trained
    assert memory.optimizer == 8 * memory.trained


def test_full_training_takes_16_bytes_per_parameter_plus_activations():
    memory = estimate(LLAMA_8B, {"name": "full"})
    assert memory.weights + memory.gradients + memory.optimizer == 16 * memory.parameters
    assert memory.casts > 0


def test_qlora_needs_less_memory_for_weights_than_lora():
    checkpointed = {"gradient_checkpointing": True}
    assert estimate(LLAMA_8B, {"name": "qlora"}, **checkpointed).weights < 6 * GIBIBYTE
    assert estimate(LLAMA_8B, {"name": "lora"}, **checkpointed).weights > 14 * GIBIBYTE


def test_checkpointing_reduces_activations_and_float32_doubles_weights():
    plain = estimate(LLAMA_8B, {"name": "lora"})
    assert estimate(LLAMA_8B, {"name": "lora"}, gradient_checkpointing=True).activations < plain.activations / 10
    assert estimate(LLAMA_8B, {"name": "lora"}, precision="float32").weights > 1.9 * plain.weights


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ({"target_modules": ["q_proj"], "r": 8}, 32 * 8 * (4096 + 4096)),
        ({"target_modules": ["q_proj"], "r": 8, "use_dora": True}, 32 * (8 * (4096 + 4096) + 4096)),
        (
            {"target_modules": ["q_proj", "k_proj"], "r": 8, "rank_pattern": {"k_proj": 4}},
            32 * (8 * (4096 + 4096) + 4 * (4096 + 1024)),
        ),
        (
            {"target_modules": ["q_proj"], "r": 8, "modules_to_save": ["lm_head"]},
            32 * 8 * (4096 + 4096) + 4096 * 128256,
        ),
        ({"target_modules": ["lm_head"], "r": 8}, 8 * (4096 + 128256)),
    ],
)
def test_trained_parameters_follow_from_the_method(method: dict[str, Any], trained: int):
    assert estimate(LLAMA_8B, method).trained == trained


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral'"),
        ({}, "model_type None"),
        ({**LLAMA_8B, "quantization_config": {"bits": 4}}, "quantized"),
        ({"model_type": "llama", "hidden_size": 4096}, "num_attention_heads"),
        ({**LLAMA_8B, "vocab_size": "many"}, "many"),
    ],
)
def test_an_unsupported_config_is_refused_with_the_reason(config: dict[str, Any], message: str):
    with pytest.raises(AirsmithError, match=message) as caught:
        read_decoder(config)
    assert caught.value.kind is ErrorKind.BAD_DATA


@given(st.dictionaries(st.sampled_from([*LLAMA_8B]), st.none() | st.integers(-1, 9) | st.text(max_size=3)))
def test_any_config_is_read_or_refused(changes: dict[str, Any]):
    with contextlib.suppress(AirsmithError):
        read_decoder({**LLAMA_8B, **changes})
