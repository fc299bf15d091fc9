"""The key of a compile cache depends on every recipe field that changes a graph, and on no other field."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from airsmith.contracts.digests import flatten, stage_digest
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import CONFIG, STAGES
from airsmith.errors import AirsmithError
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from tests.support.runs import new_spec

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
BASE: dict[str, Any] = {
    "name": "x",
    "model.id": "a/b",
    "dataset.id": "c/d",
    "dataset.validation_fraction": 0.1,
    "method.target_modules": ["q_proj", "v_proj"],
    "training.total_train_batch_size": 32,
    "training.max_per_device_train_batch_size": 2,
    "backend.name": "neuron_xla",
    "backend.instance_type": "trn1.32xlarge",
    "backend.devices": 16,
}
VERSIONS = dict.fromkeys(("torch", "transformers", "peft", "optimum-neuron", "neuronx-cc", "torch-neuronx"), "1")

CHANGES: dict[str, Any] = {
    "backend.devices": 4,
    "backend.instance_type": "trn1n.32xlarge",
    "backend.nodes": 2,
    "backend.pipeline_parallel_size": 2,
    "backend.tensor_parallel_size": 4,
    "dataset.max_length": 4096,
    "method.lora_alpha": 16,  # a scale of 1
    "method.lora_dropout": 0.1,
    "method.name": "full",
    "method.r": 8,
    "method.rank_pattern": {"o_proj": 4},
    "method.target_modules": ["q_proj"],
    "method.use_rslora": ("method.lora_alpha", 4),  # 4 / sqrt(16) is 1
    "model.dtype": "bfloat16",
    "training.gradient_checkpointing": True,
    "training.lr_scheduler_type": "constant",
    "training.max_grad_norm": 0.5,
    "training.max_per_device_train_batch_size": 4,
    "training.precision": "bfloat16",
    "training.warmup_ratio": 0.0,
    "training.warmup_steps": 0,
    "training.weight_decay": 0.01,
}
"""For each field, a value that changes the graph."""

NO_CHANGES: dict[str, Any] = {
    "backend.job": "trainjob",
    "backend.priority": None,
    "backend.queue": "q",
    "backend.resources.cpu": "1",
    "backend.resources.ephemeral_storage": "1Gi",
    "backend.resources.memory": "1Gi",
    "backend.resources.shared_memory": "1Gi",
    "dataset.chat_template": "x",
    "dataset.columns": {"messages": "talk"},
    "dataset.format": "instruction",
    "dataset.id": "e/f",
    "dataset.max_leakage_fraction": 0.5,
    "dataset.overflow": "truncate",
    "dataset.packing": "across_samples",
    "dataset.revision": "v2",
    "dataset.seed": 1,
    "dataset.split": "other",
    "dataset.subset": "s",
    "dataset.validation_fraction": 0.2,
    "dataset.validation_split": None,
    "description": "d",
    "evaluate.backend": "cuda",
    "evaluate.max_examples": 1,
    "evaluate.max_new_tokens": 1,
    "evaluate.resources.cpu": "1",
    "evaluate.resources.ephemeral_storage": "1Gi",
    "evaluate.resources.memory": "1Gi",
    "evaluate.resources.shared_memory": "1Gi",
    "method.alpha_pattern": {"o_proj": 8},
    "model.exclude": ["*.bin"],
    "model.id": "g/h",  # its config is an input
    "model.max_shard_size": "1GB",
    "model.revision": "v2",
    "model.trust_remote_code": True,
    "name": "y",
    "schedule": "0 3 * * 1",
    "secrets.api_key": {"kubernetes_secret": "n/k"},
    "secrets.hf_token": {"environment": "T"},
    "serve.devices": 1,
    "serve.enabled": False,
    "serve.engine": "vllm",
    "serve.engine_args": {"max-model-len": 9},
    "serve.instance_type": "trn1n.32xlarge",
    "serve.load": "stream",
    "serve.max_replicas": 9,
    "serve.mode": "adapter",
    "serve.name": "n",
    "serve.replicas": 2,
    "training.learning_rate": 1e-5,
    "training.logging_steps": 1,
    "training.max_steps": 5,
    "training.num_train_epochs": 2,
    "training.save_steps": 1,
    "training.save_total_limit": 1,
    "training.seed": 1,
    "training.total_train_batch_size": 64,  # accumulates more rows
}
"""For each field, a value that keeps the graph."""

REQUIRED_WITH: dict[str, dict[str, Any]] = {
    "dataset.format": {"dataset.columns": {"instruction": "i"}},
    "serve.load": {"serve.engine": "vllm"},
    "serve.mode": {"serve.engine": "vllm"},
    "training.early_stopping_patience": {"training.eval_steps": 5},
    "training.load_best_model_at_end": {"training.eval_steps": 5, "training.save_steps": 5},
}
"""Fields that must be set together with a field."""

UNSUPPORTED = {
    "backend.name",  # no other backend compiles
    "method.modules_to_save",
    "method.use_dora",
    "sweep",
    "training.early_stopping_patience",
    "training.eval_steps",
    "training.load_best_model_at_end",
}
"""Fields that training on Neuron does not support."""


def spec_with(versions: dict[str, str] = VERSIONS, **changes: Any) -> RunSpec:
    content: dict[str, Any] = {}
    for key, value in {**BASE, **changes}.items():
        *groups, name = key.split(".")
        section = content
        for group in groups:
            section = section.setdefault(group, {})
        section[name] = value
    if content["method"].get("name") == "full":
        content["method"] = {"name": "full"}
    recipe = Recipe.model_validate(content)
    plan = make_plan(recipe)
    return new_spec(recipe, plan=plan, toolchains={stage.image: versions for stage in plan.stages}, created_at=NOW)


def key(spec: RunSpec, config: str = "config") -> str:
    base = StagePointer(
        stage="mirror_model", type="base_model", digest="any", location="", properties={CONFIG: config}, cached=False,
        started_at=NOW, seconds=0,
    )  # fmt: skip
    return stage_digest(STAGES["compile"], spec, {"mirror_model": base})


def spec_with_changed(field: str, value: Any) -> RunSpec:
    """The spec of a run that differs in one field, and in the fields that it requires."""
    if field == "method.use_rslora":
        other, other_value = value
        return spec_with(**{field: True, other: other_value})
    return spec_with(**{**REQUIRED_WITH.get(field, {}), field: value})


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_that_changes_the_graph_changes_the_key(field: str) -> None:
    assert key(spec_with_changed(field, CHANGES[field])) != key(spec_with())


@pytest.mark.parametrize("field", NO_CHANGES)
def test_a_field_that_changes_no_graph_keeps_the_key(field: str) -> None:
    assert key(spec_with_changed(field, NO_CHANGES[field])) == key(spec_with())


def test_every_field_is_in_exactly_one_table() -> None:
    fields = set(flatten(spec_with().recipe.model_dump(mode="json")))
    tables = [set(CHANGES), set(NO_CHANGES), UNSUPPORTED]
    assert set().union(*tables) == fields
    assert sum(len(table) for table in tables) == len(fields)


@pytest.mark.parametrize("field", sorted(UNSUPPORTED - {"backend.name", "sweep"}))
def test_an_unsupported_field_is_refused(field: str) -> None:
    value: Any = {"method.modules_to_save": ["lm_head"], "training.eval_steps": 5}.get(field, True)
    with pytest.raises(AirsmithError, match=field.replace(".", r"\.")):
        spec_with_changed(field, value)


@pytest.mark.parametrize("name", VERSIONS)
def test_another_library_version_changes_the_key(name: str) -> None:
    assert key(spec_with(versions={**VERSIONS, name: "2"})) != key(spec_with())


def test_the_key_depends_on_the_config_of_the_model() -> None:
    assert key(spec_with(), config="another") != key(spec_with())


def test_explicit_sizes_equal_to_the_derived_ones_keep_the_key() -> None:
    assert key(spec_with(**{"backend.tensor_parallel_size": 8, "backend.pipeline_parallel_size": 1})) == key(
        spec_with()
    )


def test_the_key_depends_on_accumulation_and_not_on_its_steps() -> None:
    once = spec_with(**{"training.total_train_batch_size": 8})
    assert (once.plan.batch.gradient_accumulation_steps, spec_with().plan.batch.gradient_accumulation_steps) == (1, 4)
    assert key(once) != key(spec_with())
    piped = {"backend.pipeline_parallel_size": 2}  # here accumulation counts micro-batches
    longer = {**piped, "training.total_train_batch_size": 64}
    assert key(spec_with(**piped)) != key(spec_with(**longer))
