"""Base and tuned model are evaluated on the same held-out examples, and batching does not change the result."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from airsmith.artifacts.read import Artifact
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.token_shards import read_rows
from airsmith_stages.evaluating import evaluation
from airsmith_stages.evaluating.evaluation import is_exact
from airsmith_stages.stage_runner import run_stage
from tests.support.model_artifacts import ModelArtifacts, assert_no_output, run_command
from tests.support.power_cuts import runs_cut_off
from tests.support.stage_runs import assert_store_is_consistent, output_of, remove_folder
from tests.support.tiny_models import greedy_tokens, load_model, questions_and_answers, tokenizer

BASE, TUNED = "base", "tuned"


@pytest.fixture
def models(artifacts: ModelArtifacts) -> dict[str, Artifact]:
    """The base and the tuned model."""
    base, other = artifacts.base_model(BASE), artifacts.base_model(TUNED, seed=8)
    return {"mirror_model": base, "merge": other}


def evaluated(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    artifact = output_of(run, "evaluate")
    answers = [json.loads(line) for line in artifact.read("answers.jsonl").splitlines()]
    return json.loads(artifact.read("evaluation.json")), answers, json.loads(artifact.read("fixed_prompts.json"))


def prompts_of(tokens: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tokens.read("validation_prompts.jsonl").splitlines()]


def test_the_command_publishes_metrics_answers_and_fixed_prompts(
    artifacts: ModelArtifacts, models: dict[str, Artifact]
) -> None:
    tokens = artifacts.tokens(pairs=questions_and_answers(40))
    run = artifacts.new_run(tokenize=tokens, **models)
    log = run_command("evaluate", run)
    assert "tuned: loss" in log
    assert "%|" not in log, "a progress bar"
    artifact = output_of(run, "evaluate")
    assert artifact.type == "evaluation"
    assert artifact.manifest.inputs == {"mirror_model": BASE, "merge": TUNED, "tokenize": "tokens"}
    metrics_by_model, answers, fixed = evaluated(run)
    assert (metrics_by_model["examples"], len(answers), len(fixed)) == (6, 6, 32)
    for index, (line, prompt) in enumerate(zip(fixed, prompts_of(tokens), strict=False)):
        assert {name: line[name] for name in ("messages", "prompt", "prompt_token_ids")} == {
            name: prompt[name] for name in ("messages", "prompt", "prompt_token_ids")
        }
        for model_name in (BASE, TUNED) if index < 6 else ():
            answer = tokenizer().decode(line[f"{model_name}_token_ids"], skip_special_tokens=True)
            assert (answers[index]["expected"], answers[index][model_name]) == (prompt["answer"], answer)
    pointer = run.pointer("evaluate")
    assert pointer is not None
    assert pointer.metrics == {
        "examples": 6,
        **{
            f"{name}_{model_name}": metrics_by_model[model_name][name]
            for model_name in (BASE, TUNED)
            for name in metrics_by_model[model_name]
        },
    }


def test_loss_and_accuracy_equal_those_of_each_row_alone(
    artifacts: ModelArtifacts, models: dict[str, Artifact]
) -> None:
    tokens = artifacts.tokens(pairs=questions_and_answers(11))
    run = artifacts.new_run(tokenize=tokens, recipe={"evaluate": {"max_examples": 9, "max_new_tokens": 1}}, **models)
    run_stage("evaluate", run)
    metrics_by_model, _, _ = evaluated(run)
    rows = read_rows(tokens.download(artifacts.folder / "read"), "validation")
    for model_name in (BASE, TUNED):
        model, losses, hits = load_model(artifacts.folder / model_name), [], []
        for begin, end in zip(rows.offsets[:9], rows.offsets[1:10], strict=True):
            row = torch.tensor(rows.tokens[begin:end].astype("int64"))
            has_label = torch.tensor(rows.loss_mask[begin:end]).bool()[1:]
            with torch.inference_mode():
                scores = model(row[None]).logits[0, :-1].log_softmax(-1)
            losses += (-scores.gather(1, row[1:, None])[:, 0])[has_label].tolist()
            hits += (scores.argmax(-1) == row[1:])[has_label].tolist()
        assert metrics_by_model[model_name]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert metrics_by_model[model_name]["token_accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_an_answer_is_correct_if_it_equals_the_expected_one(
    artifacts: ModelArtifacts, models: dict[str, Artifact]
) -> None:
    """The expected answers are three of the tuned model's own and one of the base model's."""
    pairs = questions_and_answers(6)
    first = artifacts.new_run(tokenize=artifacts.tokens("questions", pairs), **models)
    run_stage("evaluate", first)
    _, answers, _ = evaluated(first)
    answered = [
        (question, answers[index][BASE if index == 3 else TUNED]) for index, (question, _) in enumerate(pairs[:4])
    ]
    second = artifacts.new_run(tokenize=artifacts.tokens("answered", [*answered, *pairs[4:]]), **models)
    run_stage("evaluate", second)
    metrics_by_model, answers, _ = evaluated(second)
    assert (metrics_by_model[TUNED]["exact_match"], metrics_by_model[BASE]["exact_match"]) == (3 / 6, 1 / 6)
    assert [line["tuned_correct"] for line in answers] == [True, True, True, False, False, False]
    assert [line["base_correct"] for line in answers] == [False, False, False, True, False, False]


@pytest.mark.parametrize(
    ("given", "exact"), [("Yes.", True), (" Yes.\n", True), ("yes.", False), ("Yes. No.", False), ("", False)]
)
def test_only_surrounding_white_space_is_ignored(given: str, exact: bool) -> None:
    assert is_exact(given, "Yes.") is exact


@pytest.mark.parametrize(("most_new", "kept"), [(5, 5), (48, 32)])
def test_answers_to_fixed_prompts_equal_those_without_batching(
    artifacts: ModelArtifacts, models: dict[str, Artifact], most_new: int, kept: int
) -> None:
    recipe = {"evaluate": {"max_examples": 2, "max_new_tokens": most_new}}
    run = artifacts.new_run(tokenize=artifacts.tokens(pairs=questions_and_answers(36)), recipe=recipe, **models)
    run_stage("evaluate", run)
    _, answers, fixed = evaluated(run)
    assert (len(answers), len(fixed)) == (2, 32)
    for model_name in (BASE, TUNED):
        model = load_model(artifacts.folder / model_name)
        for line in fixed[::5]:
            assert line[f"{model_name}_token_ids"] == greedy_tokens(model, line["prompt_token_ids"], kept)
        assert max(len(line[f"{model_name}_token_ids"]) for line in fixed) == kept
    assert any(line["base_token_ids"] != line["tuned_token_ids"] for line in fixed)


def test_all_examples_are_evaluated_if_the_recipe_sets_no_limit(
    artifacts: ModelArtifacts, models: dict[str, Artifact]
) -> None:
    recipe = {"evaluate": {"max_examples": None, "max_new_tokens": 1}}
    run = artifacts.new_run(tokenize=artifacts.tokens(pairs=questions_and_answers(35)), recipe=recipe, **models)
    run_stage("evaluate", run)
    metrics_by_model, answers, fixed = evaluated(run)
    assert (metrics_by_model["examples"], len(answers), len(fixed)) == (35, 35, 32)


def test_only_one_model_is_in_memory_at_a_time(
    artifacts: ModelArtifacts, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []
    right = evaluation._load

    def watched(*arguments: Any) -> Any:
        gc.collect()
        assert not [model for model in loaded if model() is not None]
        model = right(*arguments)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(evaluation, "_load", watched)
    run_stage("evaluate", artifacts.new_run(tokenize=artifacts.tokens(), **models))
    assert len(loaded) == 2


def test_a_model_with_a_non_finite_loss_is_refused(artifacts: ModelArtifacts) -> None:
    base = artifacts.base_model(BASE)
    broken = load_model(artifacts.folder / BASE)
    broken.lm_head.weight.data[5, 5] = float("nan")
    broken.save_pretrained(artifacts.folder / BASE)
    merged = artifacts.publish("model", TUNED, artifacts.folder / BASE)
    run = artifacts.new_run(tokenize=artifacts.tokens(), mirror_model=base, merge=merged)
    with pytest.raises(AirsmithError, match="loss on the validation split is nan") as refused:
        run_stage("evaluate", run)
    assert refused.value.kind is ErrorKind.NON_FINITE_LOSS
    assert_no_output(refused.value, run, "evaluate", "evaluation")


def test_a_split_without_a_complete_example_is_refused(artifacts: ModelArtifacts, models: dict[str, Artifact]) -> None:
    """Every example is truncated, so that there are rows but no prompts."""
    whole = artifacts.tokens("whole").download(artifacts.folder / "cut")
    (whole / "validation_prompts.jsonl").write_text("")
    run = artifacts.new_run(tokenize=artifacts.publish("tokens", "cut", Path(whole)), **models)
    with pytest.raises(AirsmithError, match=r"fits into dataset\.max_length 256 as a whole") as refused:
        run_stage("evaluate", run)
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert_no_output(refused.value, run, "evaluate", "evaluation")


def test_a_power_cut_never_leaves_a_manifest_without_content(
    artifacts: ModelArtifacts, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = artifacts.tokens(pairs=questions_and_answers(2))
    judged = evaluation.evaluate_model
    known: dict[str, Any] = {}

    def judged_once(model_name: str, *arguments: Any) -> Any:
        if model_name not in known:
            known[model_name] = judged(model_name, *arguments)
        return known[model_name]

    monkeypatch.setattr(evaluation, "evaluate_model", judged_once)

    def start() -> Run:
        remove_folder(artifacts.store, "artifacts/evaluation")
        return artifacts.new_run(tokenize=tokens, **models)

    seen = set()
    for run in runs_cut_off("evaluate", start, monkeypatch):
        assert_store_is_consistent(artifacts.store)
        files = [info.path.rpartition("/")[2] for info in artifacts.store.list("artifacts/evaluation")]
        seen.add((bool(files), "manifest.json" in files, run.pointer("evaluate") is not None))
    assert seen == {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}
