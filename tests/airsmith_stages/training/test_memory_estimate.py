"""The estimated memory equals that of real models: their parameters and the tensors saved for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from airsmith.pipeline.decoder import Decoder, read_decoder
from airsmith.pipeline.memory import block_bytes_per_token
from airsmith.recipe import Recipe
from airsmith_stages.training.lora import add_lora

ROWS, LENGTH = 4, 128
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
}
FAMILIES = ("llama", "mistral", "qwen3", "gemma", "gemma3_text")


def config(model_type: str, layers: int) -> Any:
    return AutoConfig.for_model(model_type, num_hidden_layers=layers, attn_implementation="sdpa", **SIZES)


def decoder(model_type: str, layers: int) -> Decoder:
    return read_decoder(config(model_type, layers).to_dict())


@pytest.mark.parametrize("model_type", [*FAMILIES, "qwen2"])
def test_the_parameter_count_equals_that_of_transformers(model_type: str):
    model = AutoModelForCausalLM.from_config(config(model_type, 2))
    assert decoder(model_type, 2).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_saved_tensors_of_a_block_take_the_estimated_memory(model_type: str, method: str, precision: str):
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"id": "a/b", "dtype": "bfloat16"},
            "dataset": {"id": "c/d", "validation_fraction": 0.1, "max_length": LENGTH},
            "method": {"name": method},
            "training": {"precision": precision},
        }
    )
    measured = (saved_bytes(model_type, 3, recipe) - saved_bytes(model_type, 1, recipe)) / 2
    shapes = decoder(model_type, 1)
    estimated = ROWS * LENGTH * block_bytes_per_token(shapes, recipe)
    if method == "full" and precision == "bfloat16":  # autocast's casts of the weights
        estimated += 2 * sum(linear.weights for linear in shapes.linears())
    assert estimated == pytest.approx(measured, rel=0.1)


def saved_bytes(model_type: str, layers: int, recipe: Recipe) -> int:
    """Measure the bytes that a forward pass saves for the backward pass, without the parameters."""
    is_half = recipe.training.precision != "float32"
    model = AutoModelForCausalLM.from_config(config(model_type, layers)).train()
    if recipe.method.name == "lora":
        model = add_lora(model.bfloat16() if is_half else model, recipe)
        for parameter in model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(0, SIZES["vocab_size"], (ROWS, LENGTH))
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        model(input_ids=tokens, labels=tokens, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in saved.items() if pointer not in parameters)
