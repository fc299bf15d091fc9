"""The shipped recipes of Llama 3.1 8B on Dolly are one recipe for four accelerators."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.recipe.load import load_recipe
from tests.support.repository import REPOSITORY

RECIPES = REPOSITORY / "dags" / "recipes"
ACCELERATORS = ("trn1", "trn2", "cuda", "rocm")


def dolly(accelerator: str) -> Recipe:
    return load_recipe(RECIPES / f"llama3-8b-dolly-{accelerator}.yaml")


def lines_without_backend(accelerator: str) -> list[str]:
    """The file's lines without section `backend`, description and comments."""
    text = (RECIPES / f"llama3-8b-dolly-{accelerator}.yaml").read_text(encoding="utf-8")
    without = re.sub(r"^backend:\n(?:[ ].*\n)*", "", text, flags=re.MULTILINE)
    assert without != text
    return [line for line in without.splitlines() if not line.startswith(("#", "description:"))]


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_the_dolly_recipes_differ_only_in_the_backend(accelerator: str) -> None:
    assert lines_without_backend(accelerator) == lines_without_backend("trn1")


def test_the_dolly_recipe_has_the_specified_hyperparameters() -> None:
    recipe = dolly("trn1")
    method, training = recipe.method, recipe.training
    assert (method.r, method.lora_alpha, method.lora_dropout, len(method.target_modules)) == (16, 16, 0.05, 7)
    assert (recipe.dataset.max_length, training.learning_rate, training.warmup) == (2048, 2e-5, 100)
    assert (training.weight_decay, training.epochs, training.total_train_batch_size) == (0.01, 1, 12)
    assert recipe.model.id == "meta-llama/Llama-3.1-8B"
    assert recipe.backend.tensor_parallel_size is None


@pytest.mark.parametrize(
    ("accelerator", "tensor", "data", "devices"),
    [("trn1", 8, 4, 16), ("trn2", 4, 1, 1), ("cuda", 1, 4, 4), ("rocm", 1, 4, 4)],
)
def test_parallel_sizes_are_derived_from_the_instance_type(
    accelerator: str, tensor: int, data: int, devices: int
) -> None:
    recipe = dolly(accelerator)
    plan = make_plan(recipe)
    assert (plan.parallel.tensor, plan.batch.data_parallel_size, recipe.backend.devices) == (tensor, data, devices)
    share = plan.batch.per_device_train_batch_size * plan.batch.gradient_accumulation_steps
    assert share * data == 12


def test_the_tiny_recipe_has_the_plan_of_a_full_node_and_small_requests() -> None:
    recipe = load_recipe(RECIPES / "llama-tiny-trn1.yaml")
    plan = make_plan(recipe)
    assert plan.names() == [
        "mirror_model", "mirror_dataset", "tokenize", "compile", "train", "consolidate", "merge", "evaluate",
        "register", "deploy", "smoke_test",
    ]  # fmt: skip
    assert (plan.parallel.tensor, plan.batch.data_parallel_size) == (8, 4)
    resources: dict[str, Any] = recipe.backend.resources.model_dump()
    assert all(resources[name] is not None for name in ("cpu", "memory", "shared_memory"))
    assert recipe.serve.engine == "vllm"
