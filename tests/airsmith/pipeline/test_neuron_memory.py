"""Training memory of each core of a Neuron device, computed from published configs."""

from __future__ import annotations

from typing import Any

import pytest

from airsmith.pipeline.decoder import read_decoder
from airsmith.pipeline.memory import GIBIBYTE, MemoryEstimate
from airsmith.pipeline.model_fit import name_targets
from airsmith.pipeline.neuron_memory import estimate_core_memory
from airsmith.pipeline.plan import make_plan
from tests.support.model_configs import GRANITE_8B, LLAMA_8B, QWEN3_8B
from tests.support.recipes import new_recipe

NORMS = 32 * 2 * 4096 + 4096


def estimate(config: dict[str, Any], **groups: Any) -> MemoryEstimate:
    training = {"precision": "bfloat16", "max_per_device_train_batch_size": 1, "total_train_batch_size": 64}
    backend = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16}
    recipe = name_targets(
        new_recipe(
            dataset={"id": "c/d", "validation_fraction": 0.1, **groups.get("dataset", {})},
            method=groups.get("method", {}),
            training={**training, **groups.get("training", {})},
            backend={**backend, **groups.get("backend", {})},
        )
    )
    plan = make_plan(recipe)
    return estimate_core_memory(read_decoder(config), recipe, plan.batch, plan.parallel)


def test_granite_parameters_match_the_published_number():
    assert read_decoder(GRANITE_8B).parameters == 8_170_848_256


def test_each_of_8_cores_has_an_eighth_of_the_layers_and_all_norms():
    sharded = 8_030_261_248 - NORMS
    lora = estimate(LLAMA_8B, method={"target_modules": ["o_proj"]})
    adapter = 32 * 16 * (4096 / 8 + 4096)
    assert lora.weights == 2 * (sharded / 8 + NORMS + adapter)
    assert lora.trained == 32 * 16 * (4096 + 4096)
    assert estimate(LLAMA_8B, method={"name": "full"}).weights == 2 * (sharded / 8 + NORMS)


def test_fused_layers_share_their_first_lora_matrix():
    separate = estimate(LLAMA_8B, method={"target_modules": ["q_proj", "o_proj"]})
    gated = estimate(LLAMA_8B, method={"target_modules": ["gate_proj", "up_proj"]})
    assert gated.gradients == 6 * 32 * 16 * (4096 + 2 * 14336 / 8)
    assert separate.gradients == 6 * 32 * 16 * (4096 + 4096 / 8 + 4096 / 8 + 4096)
    qkv = {"target_modules": ["q_proj", "k_proj", "v_proj"]}
    on_16_cores = estimate(LLAMA_8B, method=qkv, backend={"tensor_parallel_size": 16})
    assert on_16_cores.gradients == 6 * 32 * 16 * (4096 + 4096 / 16 + 2 * 128)  # a whole key head on each core


def test_zero_shards_the_optimizer_across_data_parallel_ranks():
    one, four = (
        estimate(LLAMA_8B, method={"name": "full"}, backend={"devices": devices}).optimizer for devices in (4, 16)
    )
    assert one == 4 * four
    assert one == 12 * ((8_030_261_248 - NORMS) / 8 + NORMS)


def test_float32_has_no_master_weights():
    memory = estimate(LLAMA_8B, method={"name": "full"}, training={"precision": "float32"})
    parameters = (8_030_261_248 - NORMS) / 8 + NORMS
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)


def test_a_pipeline_rank_has_half_the_layers_and_one_embedding():
    half = estimate(LLAMA_8B, method={"name": "full"}, backend={"pipeline_parallel_size": 2})
    embedding = 128256 * 4096
    blocks = (8_030_261_248 - NORMS - 2 * embedding) / 8
    assert half.weights == 2 * (blocks / 2 + 32 * 4096 + embedding / 8 + 4096)


def test_granite_replicates_its_vocabulary_on_every_core():
    granite = estimate(GRANITE_8B)
    assert granite.logits == 2048 * 49155 * 14
    assert estimate(QWEN3_8B).logits == 2048 * 151936 / 8 * 14


def test_checkpointing_keeps_block_inputs_and_short_rows_keep_scores():
    kept = estimate(LLAMA_8B, training={"gradient_checkpointing": True})
    assert kept.activations < estimate(LLAMA_8B).activations / 10
    short = estimate(LLAMA_8B, dataset={"max_length": 1024}).activations
    assert short - estimate(LLAMA_8B).activations / 2 == pytest.approx(32 * 1024**2 * 32 / 8 * 8)


def test_llama_8b_fits_a_core_of_trn1():
    assert estimate(LLAMA_8B, training={"gradient_checkpointing": True}).total < 4 * GIBIBYTE
