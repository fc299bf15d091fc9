"""Evaluate one model on the validation split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from airsmith.recipe import Recipe
from airsmith_stages.data.token_shards import TokenRows
from airsmith_stages.devices import Device
from airsmith_stages.evaluating.generation import generate_greedy, generate_unbatched
from airsmith_stages.evaluating.scoring import Score, score

log = logging.getLogger("airsmith")

FIXED_PROMPTS = 32
FIXED_NEW_TOKENS = 32


@dataclass(frozen=True)
class HeldOut:
    """The data that both models are evaluated on.

    :param prompts: all prompts of the validation split with their expected answers, in order.
    :param examples: number of prompts that count for the exact match; others are only fixed prompts.
    :param rows: tokens of the validation split.
    """

    prompts: list[dict[str, Any]]
    examples: int
    rows: TokenRows
    pad_token_id: int

    @property
    def answered(self) -> list[dict[str, Any]]:
        """Prompts whose answers are compared with the expected answers."""
        return self.prompts[: self.examples]

    @property
    def fixed(self) -> list[dict[str, Any]]:
        """Prompts whose answers a server must reproduce token by token."""
        return self.prompts[:FIXED_PROMPTS]


@dataclass(frozen=True)
class Evaluation:
    """Results of one model.

    :param answers: its answers as text, one per prompt in `HeldOut.answered`.
    :param fixed_token_ids: its answers to the fixed prompts, generated without batching.
    """

    score: Score
    answers: list[str]
    correct: list[bool]
    fixed_token_ids: list[list[int]]

    @property
    def exact_match(self) -> float:
        """Fraction of answers that equal the expected answer."""
        return sum(self.correct) / len(self.correct)


def evaluate_model(label: str, folder: Path, held_out: HeldOut, recipe: Recipe, device: Device) -> Evaluation:
    """Load a model, evaluate it and release it.

    :param label: name of the model in the log.
    :raises AirsmithError: `non_finite_loss`.
    """
    model = _load(folder, recipe, device)
    scored = score(model, held_out.rows, held_out.pad_token_id, recipe.evaluate.max_examples)
    token_ids, fixed = _answers(model, held_out, recipe.evaluate.max_new_tokens)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)
    answers = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in token_ids]
    correct = [is_exact(text, prompt["answer"]) for text, prompt in zip(answers, held_out.answered, strict=True)]
    evaluation = Evaluation(scored, answers, correct, fixed)
    log.info(
        "%s: loss %.4f, token accuracy %.3f, exact match %.3f of %d answers",
        label, scored.loss, scored.token_accuracy, evaluation.exact_match, len(answers),
    )  # fmt: skip
    return evaluation


def is_exact(given: str, expected: str) -> bool:
    """Whether an answer equals the expected one, ignoring surrounding white space."""
    return given.strip() == expected.strip()


def _load(folder: Path, recipe: Recipe, device: Device) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=recipe.model.dtype,
        attn_implementation=device.attn_implementation,
        trust_remote_code=recipe.model.trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
    )
    return model.to(device.torch_device).eval()


def _answers(model: PreTrainedModel, held_out: HeldOut, max_new_tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the answers and of the answers to the fixed prompts, from the same batches."""
    prompts = _token_ids(held_out.prompts[: max(held_out.examples, FIXED_PROMPTS)])
    batched = generate_greedy(model, prompts, max_new_tokens=max_new_tokens, pad_token_id=held_out.pad_token_id)
    fixed = generate_unbatched(
        model,
        _token_ids(held_out.fixed),
        batched[:FIXED_PROMPTS],
        max_new_tokens=min(FIXED_NEW_TOKENS, max_new_tokens),
        pad_token_id=held_out.pad_token_id,
    )
    return batched[: held_out.examples], fixed


def _token_ids(prompts: Sequence[dict[str, Any]]) -> list[list[int]]:
    return [prompt["prompt_token_ids"] for prompt in prompts]
