"""The recipes of the known cases: Dolly on Llama 3.1 8B is one recipe for four accelerators, and the one asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.recipe.load import load_recipe

RECIPES = Path(__file__).parents[3] / "dags" / "recipes"
ACCELERATORS = ("trn1", "trn2", "cuda", "rocm")


def dolly(accelerator: str) -> Recipe:
    return load_recipe(RECIPES / f"llama3-8b-dolly-{accelerator}.yaml")


def lines_but_the_backends(accelerator: str) -> list[str]:
    """The file's lines without its backend's, and without what introduces it."""
    text = (RECIPES / f"llama3-8b-dolly-{accelerator}.yaml").read_text(encoding="utf-8")
    without = re.sub(r"^backend:\n(?:[ ].*\n)*", "", text, flags=re.MULTILINE)
    assert without != text
    return [line for line in without.splitlines() if not line.startswith(("#", "description:"))]


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_the_recipes_differ_in_the_backends_lines_only(accelerator: str) -> None:
    assert lines_but_the_backends(accelerator) == lines_but_the_backends("trn1")


def test_the_training_is_the_one_that_was_asked_for() -> None:
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
def test_sizes_are_derived(accelerator: str, tensor: int, data: int, devices: int) -> None:
    recipe = dolly(accelerator)
    plan = make_plan(recipe)
    assert (plan.parallel.tensor, plan.batch.data_parallel_size, recipe.backend.devices) == (tensor, data, devices)
    share = plan.batch.per_device_train_batch_size * plan.batch.gradient_accumulation_steps
    assert share * data == 12


def test_the_tiny_recipe_of_test_clusters_is_planned_like_a_whole_node_and_asks_for_little() -> None:
    recipe = load_recipe(RECIPES / "llama-tiny-trn1.yaml")
    plan = make_plan(recipe)
    assert plan.names() == [
        "mirror_model", "mirror_dataset", "tokenize", "compile", "train", "consolidate", "merge", "evaluate",
        "register", "deploy", "smoke_test",
    ]  # fmt: skip
    assert (plan.parallel.tensor, plan.batch.data_parallel_size) == (8, 4)
    wanted: dict[str, Any] = recipe.backend.resources.model_dump()
    assert all(wanted[name] is not None for name in ("cpu", "memory", "shared_memory"))
    assert recipe.serve.engine == "vllm"
