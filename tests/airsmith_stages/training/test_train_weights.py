"""What training changes, what it keeps, and what it publishes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith_stages.devices import get_device
from airsmith_stages.stage_runner import run_stage
from airsmith_stages.training.model import TrainableModel, fingerprints, load_model
from airsmith_stages.training.result import check_trained
from tests.support.stage_runs import output_of
from tests.support.training_runs import TrainingRuns


def test_lora_learns_and_publishes_an_adapter(trainings: TrainingRuns, rows: list[list[list[int]]]) -> None:
    # Weights as large as those of a trained model, so that the adapter has an effect.
    base = trainings.base_model("large", initializer_range=0.3)
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), base=base, max_steps=60, learning_rate=0.05)
    pointer = run_stage("train", run)
    losses = [row["loss"] for row in run.metrics()]
    assert losses[-1] < 0.7 * losses[0]
    artifact = output_of(run, "train")
    assert artifact.type == "adapter"
    assert set(artifact.names()) == {"adapter_model.safetensors", "adapter_config.json", "metrics.jsonl", "loss.png"}
    assert artifact.read("loss.png").startswith(b"\x89PNG")
    config = json.loads(artifact.read("adapter_config.json"))
    assert config["base_model_name_or_path"] == "tests/tiny-llama"
    assert "/" not in json.dumps(config).replace("tests/tiny-llama", "")
    assert pointer.properties["end_tokens"] == "[1]"
    metrics = pointer.metrics
    assert metrics["steps"] == 60
    # 18 rows in batches of 4: 12 epochs of 5 steps.
    assert metrics["tokens"] == 12 * sum(len(row[0]) for row in rows)
    assert metrics["eval_loss"] == min(row["eval_loss"] for row in run.metrics() if "eval_loss" in row)
    assert metrics["train_loss"] == losses[-1]
    assert metrics["tokens_per_second"] > 0
    progress = run.progress()
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.eta_seconds) == (60, 60, 0)
    assert progress.eval_loss == pytest.approx(metrics["eval_loss"])
    assert not list(trainings.folder.glob("airsmith-train-*"))


def test_a_second_run_reuses_the_output(trainings: TrainingRuns, rows: list[list[list[int]]]) -> None:
    tokens = trainings.tokens("rows", rows)
    first = run_stage("train", trainings.new_run(tokens=tokens))
    second = run_stage("train", trainings.new_run(tokens=tokens, logging_steps=5, save_total_limit=1))
    assert second.cached
    assert second.location == first.location


def train_module(trainings: TrainingRuns, run: Any, monkeypatch: pytest.MonkeyPatch) -> TrainableModel:
    """Train a run and return the model that was passed to the final check."""
    seen: list[TrainableModel] = []

    def spy(model: TrainableModel, optimizer: Any) -> None:
        seen.append(model)
        check_trained(model, optimizer)

    monkeypatch.setattr("airsmith_stages.training.stage.check_trained", spy)
    run_stage("train", run)
    return seen[0]


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"use_dora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 16.0}},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=["all linear", "two modules", "dora", "modules to save"],
)
def test_trainable_parameters_change_and_frozen_ones_do_not(
    trainings: TrainingRuns, rows: list[list[list[int]]], monkeypatch: pytest.MonkeyPatch, method: dict[str, Any]
) -> None:
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), method=method)
    model = train_module(trainings, run, monkeypatch)
    base = load_file(trainings.folder / "base-tiny/model.safetensors")
    after = fingerprints(model.module)
    assert all(after[name] != before for name, before in model.untrained.items())
    frozen = {name: p for name, p in model.module.named_parameters() if not p.requires_grad}
    for name, tensor in base.items():
        plain = f"base_model.model.{name}"
        layered = plain.replace(".weight", ".base_layer.weight")
        original = plain.replace(".weight", ".original_module.weight")
        assert torch.equal(next(frozen[n] for n in (plain, layered, original) if n in frozen), tensor), name


def test_every_field_of_the_method_reaches_peft(trainings: TrainingRuns, rows: list[list[list[int]]]) -> None:
    method = {
        "r": 3, "lora_alpha": 5.5, "lora_dropout": 0.25, "target_modules": ["v_proj", "q_proj"],
        "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 7}, "use_rslora": True,
        "use_dora": False,
    }  # fmt: skip
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), method=method)
    run_stage("train", run)
    artifact = output_of(run, "train")
    config = json.loads(artifact.read("adapter_config.json"))
    assert {name: config[name] for name in method} == {**method, "target_modules": ["q_proj", "v_proj"]}
    with safe_open(artifact.download(trainings.folder / "adapter") / "adapter_model.safetensors", "pt") as file:
        matrices = [name for name in file.keys() if "lora_A" in name]  # noqa: SIM118
        ranks = {name.split(".")[-3]: file.get_slice(name).get_shape()[0] for name in matrices}
    assert ranks == {"q_proj": 2, "v_proj": 3}


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ({"target_modules": ["q_proj", "k_porj"]}, "method.target_modules contains 'k_porj'"),
        ({"target_modules": ["nothing"]}, "nothing"),
        ({"modules_to_save": ["lm_haed"]}, "method.modules_to_save contains 'lm_haed'"),
        ({"rank_pattern": {"embed": 2}}, "method.rank_pattern contains 'embed'"),
    ],
)
def test_unknown_module_names_are_refused(
    trainings: TrainingRuns, rows: list[list[list[int]]], method: dict[str, Any], field: str
) -> None:
    with pytest.raises(AirsmithError) as refused:
        run_stage("train", trainings.new_run(tokens=trainings.tokens("rows", rows), method=method))
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert field in refused.value.message
    assert "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in refused.value.hint


def test_full_training_publishes_a_complete_model_in_the_base_dtype(
    trainings: TrainingRuns, rows: list[list[list[int]]]
) -> None:
    base = trainings.base_model("bf16", dtype="bfloat16", tie_word_embeddings=True)
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), base=base, recipe={"method": {"name": "full"}})
    pointer = run_stage("train", run)
    artifact = output_of(run, "train")
    assert pointer.type == "model"
    assert pointer.properties["tokenizer_digest"]
    assert pointer.properties["end_tokens"] == "[1]"
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "loss.png"} <= set(artifact.names())
    folder = artifact.download(trainings.folder / "model")
    assert (folder / "config.json").read_bytes() == (trainings.folder / "base-bf16/config.json").read_bytes()
    before, after = (load_file(path / "model.safetensors") for path in (trainings.folder / "base-bf16", folder))
    assert before.keys() == after.keys()
    assert all(after[name].dtype is torch.bfloat16 and not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("precision", "frozen"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_trained_parameters_are_held_in_float32(trainings: TrainingRuns, precision: str, frozen: torch.dtype) -> None:
    trainings.base_model("bf16", dtype="bfloat16")
    recipe = recipe_with(training={"precision": precision}, method={"modules_to_save": ["lm_head"]})
    model = load_model(trainings.folder / "base-bf16", recipe, get_device("cpu"))
    dtypes = {(p.requires_grad, p.dtype) for p in model.module.parameters()}
    assert dtypes == {(True, torch.float32), (False, frozen)}


@pytest.mark.parametrize("recipe", [{}, {"method": {"name": "full"}}], ids=["lora", "full"])
def test_bfloat16_and_gradient_checkpointing_train_alike(
    trainings: TrainingRuns, rows: list[list[list[int]]], recipe: Mapping[str, Any]
) -> None:
    base, tokens = trainings.base_model("bf16", dtype="bfloat16"), trainings.tokens("rows", rows)
    run = trainings.new_run(tokens=tokens, base=base, recipe=recipe, precision="bfloat16", gradient_checkpointing=True)
    run_stage("train", run)
    exact = trainings.new_run(tokens=tokens, base=base, recipe=recipe)
    run_stage("train", exact)
    for row, expected in zip(run.metrics(), exact.metrics(), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-2)


@pytest.mark.parametrize(
    ("base", "kind", "message"),
    [
        ({"vocab_size": 40}, ErrorKind.BAD_DATA, "only 40 embeddings"),
        ({"max_position_embeddings": 8}, ErrorKind.BAD_RECIPE, "only 8 positions"),
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused(
    trainings: TrainingRuns, rows: list[list[list[int]]], base: dict[str, Any], kind: ErrorKind, message: str
) -> None:
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), base=trainings.base_model("small", **base))
    with pytest.raises(AirsmithError, match=message) as refused:
        run_stage("train", run)
    assert refused.value.kind is kind


def test_a_training_without_effect_is_not_published(trainings: TrainingRuns, rows: list[list[list[int]]]) -> None:
    """The only step is the first of the warmup, whose learning rate is 0."""
    run = trainings.new_run(tokens=trainings.tokens("rows", rows), max_steps=1, warmup_ratio=0.5)
    with pytest.raises(AirsmithError, match=r"did not change 28 of 28 trained tensors") as refused:
        run_stage("train", run)
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert "warmup_ratio" in refused.value.hint
    assert run.pointer("train") is None
    assert not list(trainings.store.list("artifacts/adapter"))


def recipe_with(**groups: Any) -> Recipe:
    model, dataset = {"id": "tests/tiny-llama"}, {"id": "tests/rows", "validation_fraction": 0.1}
    return Recipe.model_validate({"name": "tiny", "model": model, "dataset": dataset, **groups})
