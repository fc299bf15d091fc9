"""Answers and losses do not depend on how prompts and rows are batched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airsmith_stages.data.token_shards import read_rows
from airsmith_stages.evaluating import generation, scoring
from airsmith_stages.evaluating.batches import longest_first
from airsmith_stages.evaluating.generation import generate_greedy, generate_unbatched
from airsmith_stages.evaluating.scoring import score
from tests.support.model_artifacts import ModelArtifacts
from tests.support.tiny_models import greedy_tokens, load_model, questions_and_answers, save_tiny_llama, tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    save_tiny_llama(folder, max_position_embeddings=64)
    return load_model(folder)


def texts(lengths: list[int]) -> list[list[int]]:
    return [[3 + (7 * line + 5 * place) % 250 for place in range(length)] for line, length in enumerate(lengths)]


@pytest.mark.parametrize("batch_prompts", [1, 3, 64])
def test_answers_do_not_depend_on_the_batch(model: Any, batch_prompts: int) -> None:
    """Neither padding nor a prompt that takes 60 of the model's 64 positions changes another answer."""
    prompts = texts([4, 60, 9, 17, 5, 5, 30, 1, 63])
    answers = generate_greedy(model, prompts, max_new_tokens=8, pad_token_id=0, batch_prompts=batch_prompts)
    assert answers == [greedy_tokens(model, prompt, min(8, 64 - len(prompt))) for prompt in prompts]


def test_a_prompt_that_fills_the_context_gets_no_answer(model: Any) -> None:
    assert [
        len(tokens) for tokens in generate_greedy(model, texts([64, 70, 10]), max_new_tokens=8, pad_token_id=0)
    ] == [0, 0, 8]


def test_an_answer_ends_with_an_end_token(model: Any) -> None:
    prompts = texts([6, 11, 13])
    unending = generate_greedy(model, prompts, max_new_tokens=8, pad_token_id=0)
    before, stop = model.generation_config.eos_token_id, unending[1][2]
    model.generation_config.eos_token_id = [before, stop]
    try:
        answers = generate_greedy(model, prompts, max_new_tokens=8, pad_token_id=0)
    finally:
        model.generation_config.eos_token_id = before
    assert answers[1] == unending[1][: unending[1].index(stop) + 1]
    assert all(tokens[-1] == stop or len(tokens) == 8 for tokens in answers)


def test_an_answer_that_differs_without_batching_is_replaced(model: Any) -> None:
    prompts = texts([6, 11])
    right = generate_greedy(model, prompts, max_new_tokens=8, pad_token_id=0)
    batched = [[*right[0], 9, 9], [*right[1][:3], right[1][3] + 1, *right[1][4:]]]
    assert generate_unbatched(model, prompts, batched, max_new_tokens=8, pad_token_id=0) == right


def test_penalties_of_the_generation_config_apply_and_sampling_does_not(model: Any) -> None:
    prompts = texts([6, 11, 13])
    plain = generate_greedy(model, prompts, max_new_tokens=12, pad_token_id=0)
    model.generation_config.update(repetition_penalty=3.0, do_sample=True, temperature=1.5, top_k=5)
    try:
        penalized = generate_greedy(model, prompts, max_new_tokens=12, pad_token_id=0)
        assert penalized == generate_greedy(model, prompts, max_new_tokens=12, pad_token_id=0)
    finally:
        model.generation_config.update(repetition_penalty=None, do_sample=False, temperature=None, top_k=None)
    assert penalized != plain


@given(lengths=st.lists(st.integers(0, 300), max_size=60), max_rows=st.integers(1, 9), max_tokens=st.integers(1, 1000))
def test_no_batch_exceeds_the_limits_of_rows_and_tokens(lengths: list[int], max_rows: int, max_tokens: int) -> None:
    batches = list(longest_first(lengths, max_rows, max_tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens
    widths = [max(lengths[index] for index in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)


def test_batch_sizes_are_limited_by_logits_and_caches(
    artifacts: ModelArtifacts, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits hold for any number of rows."""
    seen: list[torch.Size] = []
    hook = model.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"].shape), with_kwargs=True)
    rows = read_rows(
        artifacts.tokens(pairs=questions_and_answers(30)).download(artifacts.folder / "read"), "validation"
    )
    monkeypatch.setattr(scoring, "BATCH_LOGITS", 100 * len(tokenizer()))
    monkeypatch.setattr(generation, "BATCH_TOKENS", 60)
    try:
        score(model, rows, 0, None)
        assert 1 < max(rows * width for rows, width in seen) <= 100
        seen.clear()
        generate_greedy(model, texts([12] * 20), max_new_tokens=8, pad_token_id=0)
        assert {shape[0] for shape in seen} == {3, 2}
    finally:
        hook.remove()
