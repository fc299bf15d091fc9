"""The memory of a training on each core of a Neuron device, from published configs."""

from __future__ import annotations

from typing import Any

import pytest
from test_memory import LLAMA_8B, QWEN3_8B

from airsmith.pipeline.decoder import read_decoder
from airsmith.pipeline.memory import GIBIBYTE, MemoryEstimate
from airsmith.pipeline.model_fit import name_targets
from airsmith.pipeline.neuron_memory import estimate_core_memory
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe

GRANITE_8B = {
    "model_type": "granite", "hidden_size": 4096, "intermediate_size": 12800, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 49155, "tie_word_embeddings": True,
}  # fmt: skip
NORMS = 32 * 2 * 4096 + 4096


def estimate(config: dict[str, Any], **groups: Any) -> MemoryEstimate:
    training = {"precision": "bfloat16", "max_per_device_train_batch_size": 1, "total_train_batch_size": 64}
    backend = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16}
    recipe = name_targets(
        Recipe.model_validate(
            {
                "name": "r",
                "model": {"id": "a/b"},
                "dataset": {"id": "c/d", "validation_fraction": 0.1, **groups.get("dataset", {})},
                "method": groups.get("method", {}),
                "training": {**training, **groups.get("training", {})},
                "backend": {**backend, **groups.get("backend", {})},
            }
        )
    )
    plan = make_plan(recipe)
    return estimate_core_memory(read_decoder(config), recipe, plan.batch, plan.parallel)


def test_granite_has_its_published_number_of_parameters():
    assert read_decoder(GRANITE_8B).parameters == 8_170_848_256


def test_eight_cores_have_an_eighth_of_the_layers_and_all_norms_each():
    shared = 8_030_261_248 - NORMS
    lora = estimate(LLAMA_8B, method={"target_modules": ["o_proj"]})
    adapter = 32 * 16 * (4096 / 8 + 4096)
    assert lora.weights == 2 * (shared / 8 + NORMS + adapter)
    assert lora.trained == 32 * 16 * (4096 + 4096)
    assert estimate(LLAMA_8B, method={"name": "full"}).weights == 2 * (shared / 8 + NORMS)


def test_layers_that_are_one_have_one_first_matrix():
    apart = estimate(LLAMA_8B, method={"target_modules": ["q_proj", "o_proj"]})
    gated = estimate(LLAMA_8B, method={"target_modules": ["gate_proj", "up_proj"]})
    assert gated.gradients == 6 * 32 * 16 * (4096 + 2 * 14336 / 8)
    assert apart.gradients == 6 * 32 * 16 * (4096 + 4096 / 8 + 4096 / 8 + 4096)
    qkv = {"target_modules": ["q_proj", "k_proj", "v_proj"]}
    of_sixteen = estimate(LLAMA_8B, method=qkv, backend={"tensor_parallel_size": 16})
    assert of_sixteen.gradients == 6 * 32 * 16 * (4096 + 4096 / 16 + 2 * 128)  # a whole key head on each core


def test_zero_shares_the_optimizer_among_data_parallel_processes():
    one, four = (
        estimate(LLAMA_8B, method={"name": "full"}, backend={"devices": devices}).optimizer for devices in (4, 16)
    )
    assert one == 4 * four
    assert one == 12 * ((8_030_261_248 - NORMS) / 8 + NORMS)


def test_float32_keeps_weights_and_moments_whole():
    found = estimate(LLAMA_8B, method={"name": "full"}, training={"precision": "float32"})
    parameters = (8_030_261_248 - NORMS) / 8 + NORMS
    assert (found.weights, found.gradients, found.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)


def test_a_pipeline_has_half_the_layers_and_one_end_on_a_core():
    half = estimate(LLAMA_8B, method={"name": "full"}, backend={"pipeline_parallel_size": 2})
    embedding = 128256 * 4096
    blocks = (8_030_261_248 - NORMS - 2 * embedding) / 8
    assert half.weights == 2 * (blocks / 2 + 32 * 4096 + embedding / 8 + 4096)


def test_granite_has_its_vocabulary_on_every_core():
    granite = estimate(GRANITE_8B)
    assert granite.logits == 2048 * 49155 * 14
    assert estimate(QWEN3_8B).logits == 2048 * 151936 / 8 * 14


def test_checkpointing_keeps_the_inputs_of_blocks_and_short_rows_keep_scores():
    kept = estimate(LLAMA_8B, training={"gradient_checkpointing": True})
    assert kept.activations < estimate(LLAMA_8B).activations / 10
    short = estimate(LLAMA_8B, dataset={"max_length": 1024}).activations
    assert short - estimate(LLAMA_8B).activations / 2 == pytest.approx(32 * 1024**2 * 32 / 8 * 8)


def test_llama_8b_fits_a_core_of_trn1_with_room():
    assert estimate(LLAMA_8B, training={"gradient_checkpointing": True}).total < 4 * GIBIBYTE
