"""A model's parameters and a training's memory, from published configs."""

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
from airsmith.recipe import Recipe

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN25_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": False,
}  # fmt: skip
MISTRAL_7B = {**LLAMA_8B, "model_type": "mistral", "vocab_size": 32000}
GEMMA3_1B = {
    "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
}  # fmt: skip
SMOLLM2_135M = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


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
def test_published_models_have_their_published_number_of_parameters(config: dict[str, Any], parameters: int):
    assert read_decoder(config).parameters == parameters


def estimate(config: dict[str, Any], method: dict[str, Any], **training: Any) -> MemoryEstimate:
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"id": "a/b"},
            "dataset": {"id": "c/d", "validation_fraction": 0.1},
            "method": method,
            "training": {"precision": "bfloat16", "max_per_device_train_batch_size": 1, **training},
            "backend": {"name": "cuda"},
        }
    )
    return estimate_memory(read_decoder(config), recipe, make_plan(recipe).batch)


def test_lora_trains_its_matrices_alone():
    found = estimate(LLAMA_8B, {"r": 16})
    assert found.trained == 41_943_040  # as peft prints for r=16 on all linear layers of Llama 3.1 8B
    assert found.weights == 2 * found.parameters + 4 * found.trained
    assert found.optimizer == 8 * found.trained


def test_full_training_takes_sixteen_bytes_per_parameter_beside_activations():
    found = estimate(LLAMA_8B, {"name": "full"})
    assert found.weights + found.gradients + found.optimizer == 16 * found.parameters
    assert found.casts > 0


def test_qlora_fits_where_lora_does_not():
    checkpointed = {"gradient_checkpointing": True}
    assert estimate(LLAMA_8B, {"name": "qlora"}, **checkpointed).weights < 6 * GIBIBYTE
    assert estimate(LLAMA_8B, {"name": "lora"}, **checkpointed).weights > 14 * GIBIBYTE


def test_checkpointing_saves_activations_and_float32_doubles_the_weights():
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
def test_what_the_method_names_is_what_is_trained(method: dict[str, Any], trained: int):
    assert estimate(LLAMA_8B, method).trained == trained


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral'"),
        ({}, "model_type None"),
        ({**LLAMA_8B, "quantization_config": {"bits": 4}}, "quantized"),
        ({"model_type": "llama", "hidden_size": 4096}, "num_attention_heads"),
        ({**LLAMA_8B, "vocab_size": "many"}, "many"),
    ],
)
def test_a_config_that_cannot_be_read_says_why(config: dict[str, Any], said: str):
    with pytest.raises(AirsmithError, match=said) as caught:
        read_decoder(config)
    assert caught.value.kind is ErrorKind.BAD_DATA


@given(st.dictionaries(st.sampled_from([*LLAMA_8B]), st.none() | st.integers(-1, 9) | st.text(max_size=3)))
def test_no_config_breaks_the_reader(changes: dict[str, Any]):
    with contextlib.suppress(AirsmithError):
        read_decoder({**LLAMA_8B, **changes})
