"""Conflicting fields are refused with both names and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from airsmith.errors import AirsmithError
from airsmith.recipe import Recipe
from airsmith.recipe.dotted_keys import flatten
from airsmith.recipe.sources import source_kind
from airsmith.recipe.validate import validate_recipe
from tests.support.recipes import new_recipe, recipe_content


def recipe_with(**changes: Any) -> Recipe:
    content = recipe_content()
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return validate_recipe(content, lambda key: key)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": {"validation_split": "v"}}, ["dataset.validation_split", "dataset.validation_fraction"]),
        ({"dataset": {"validation_fraction": None}}, ["dataset.validation_split", "dataset.validation_fraction"]),
        ({"dataset": {"columns": {"prompt": "p"}}}, ["dataset.columns", "dataset.format"]),
        ({"training": {"max_steps": 1, "num_train_epochs": 1}}, ["training.max_steps", "training.num_train_epochs"]),
        ({"training": {"warmup_steps": 5, "warmup_ratio": 0.1}}, ["training.warmup_ratio", "training.warmup_steps"]),
        ({"training": {"load_best_model_at_end": True}}, ["training.load_best_model_at_end", "training.eval_steps"]),
        ({"training": {"early_stopping_patience": 2}}, ["training.early_stopping_patience", "training.eval_steps"]),
        (
            {"training": {"eval_steps": 7, "save_steps": 10, "load_best_model_at_end": True}},
            ["training.save_steps", "training.eval_steps"],
        ),
        ({"method": {"name": "full", "r": 4}}, ["method.name", "method.r"]),
        ({"backend": {"priority": "high"}}, ["backend.priority", "backend.queue"]),
        ({"serve": {"mode": "adapter"}, "method": {"name": "full"}}, ["serve.mode", "method.name"]),
        ({"serve": {"mode": "adapter"}, "method": {"use_dora": True}}, ["serve.mode", "method.use_dora"]),
        ({"serve": {"mode": "adapter", "engine": "transformers"}}, ["serve.mode", "serve.engine"]),
        (
            {"serve": {"mode": "adapter"}, "method": {"modules_to_save": ["lm_head"]}},
            ["serve.mode", "method.modules_to_save"],
        ),
        ({"serve": {"mode": "adapter"}, "method": {"r": 600}}, ["serve.mode", "method.r"]),
        ({"serve": {"mode": "adapter"}, "method": {"rank_pattern": {"q_proj": 513}}}, ["serve.mode", "513"]),
        ({"serve": {"mode": "adapter", "load": "stream"}}, ["serve.mode", "serve.load"]),
        ({"serve": {"load": "stream"}, "model": {"trust_remote_code": True}}, ["serve.load", "trust_remote_code"]),
        ({"serve": {"replicas": 3, "max_replicas": 2}}, ["serve.replicas", "serve.max_replicas"]),
        ({"serve": {"engine_args": {"tensor_parallel_size": 2}}}, ["tensor_parallel_size", "backend.devices"]),
        ({"serve": {"engine_args": {"api-key": "x"}}}, ["api-key", "secrets.api_key"]),
        ({"serve": {"engine_args": {"--seed": 1}}}, ["--seed", "without leading dashes"]),
        ({"secrets": {"api_key": {"environment": "KEY"}}}, ["secrets.api_key", "kubernetes_secret"]),
        ({"secrets": {"hf_token": {}}}, ["airflow_connection", "environment", "kubernetes_secret"]),
    ],
)
def test_conflicting_fields_are_both_named(changes: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(AirsmithError) as caught:
        recipe_with(**changes)
    for name in named:
        assert name in caught.value.message


@pytest.mark.parametrize(
    ("source", "kind"),
    [("gpt2", "hub"), ("a/b", "hub"), ("s3://b/p", "store"), ("file:///d", "store"), ("models/x/3", "registry")],
)
def test_the_form_of_an_id_determines_the_kind_of_source(source: str, kind: str) -> None:
    assert source_kind(source) == kind
    assert recipe_with(model={"id": source}).model.id == source


@pytest.mark.parametrize("source", ["/data/model", "./model", "gs://b/p", "a/b/c", "models/x/latest", "a b"])
def test_an_invalid_id_is_refused(source: str) -> None:
    with pytest.raises(AirsmithError, match="model"):
        recipe_with(model={"id": source})


def test_a_resolved_recipe_round_trips() -> None:
    recipe = recipe_with(method={"name": "full"}, training={"max_steps": 3}, backend={"resources": {"memory": "8Gi"}})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_every_boolean_can_be_false() -> None:
    recipe = new_recipe(dataset={"id": "c/d", "validation_split": "v"})
    booleans = [key for key, value in flatten(recipe.model_dump()).items() if isinstance(value, bool)]
    assert booleans
    for key in booleans:
        group, name = key.split(".")
        content = recipe.model_dump(mode="json")
        content[group][name] = False
        assert getattr(getattr(Recipe.model_validate(content), group), name) is False


def test_the_default_is_one_epoch() -> None:
    assert recipe_with().training.epochs == 1.0
    assert recipe_with(training={"max_steps": 5}).training.epochs is None


@pytest.mark.parametrize(
    ("training", "warmup"),
    [({}, 0.03), ({"warmup_ratio": 0.0}, 0), ({"warmup_steps": 100}, 100), ({"warmup_steps": 0}, 0)],
)
def test_warmup_is_a_ratio_or_a_number_of_steps(training: dict[str, Any], warmup: float) -> None:
    recipe = recipe_with(training=training)
    assert recipe.training.warmup == warmup
    assert Recipe.model_validate_json(recipe.model_dump_json()).training.warmup == warmup


@pytest.mark.parametrize(
    ("backend", "evaluate", "expected"),
    [
        ("cuda", {}, "cuda"),
        ("neuron_xla", {}, "cpu"),
        ("neuron_native", {}, "cpu"),
        ("neuron_xla", {"backend": "cuda"}, "cuda"),
    ],
)
def test_evaluation_uses_the_training_backend_and_cpus_after_neuron(
    backend: str, evaluate: dict[str, Any], expected: str
) -> None:
    assert recipe_with(backend={"name": backend}, evaluate=evaluate).evaluate_backend == expected
