"""Stage `evaluate`: base and tuned model on the same held-out examples, their answers kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from airsmith.contracts.cache import Output
from airsmith_stages.accelerators import get_accelerator
from airsmith_stages.data.token_shards import INDEX_FILE, PROMPTS_FILE, TokenRows, read_rows, shard_names
from airsmith_stages.evaluating.answering import answer
from airsmith_stages.evaluating.scoring import Score, score
from airsmith_stages.frame import StageContext

log = logging.getLogger("airsmith")

FIXED_PROMPTS = 32
FIXED_NEW_TOKENS = 32


@dataclass(frozen=True)
class HeldOut:
    """What both models are judged on.

    :param prompts: questions with the expected answers, in the split's order.
    """

    rows: TokenRows
    prompts: list[dict[str, Any]]
    index: dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """How one model did.

    :param answers: its answers as text, in the prompts' order.
    :param fixed_token_ids: its greedy ids for the fixed prompts, each computed alone, as a server does.
    """

    score: Score
    answers: list[str]
    exact_match: float
    fixed_token_ids: list[list[int]]


def run(context: StageContext) -> Output:
    """Judge the base, then the tuned model; only one of them is in memory at a time."""
    get_accelerator(context.spec.recipe.evaluate_backend).prepare()
    held_out = _read_held_out(context)
    base = _judge("base", context.fetch("mirror_model"), held_out, context)
    tuned = _judge("tuned", context.fetch("merge"), held_out, context)
    return _publish(context, held_out, base, tuned)


def _read_held_out(context: StageContext) -> HeldOut:
    tokens = context.input("tokenize")
    index = json.loads(tokens.read(INDEX_FILE))
    folder = context.fetch("tokenize", [INDEX_FILE, PROMPTS_FILE, *shard_names(index, "validation")])
    lines = (folder / PROMPTS_FILE).read_text(encoding="utf-8").splitlines()
    most = context.spec.recipe.evaluate.max_examples
    return HeldOut(read_rows(folder, "validation"), [json.loads(line) for line in lines][:most], index)


def _judge(who: str, folder: Path, held_out: HeldOut, context: StageContext) -> Judgement:
    recipe = context.spec.recipe
    accelerator = get_accelerator(recipe.evaluate_backend)
    code = recipe.model.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=recipe.model.dtype, attn_implementation=accelerator.attn_implementation, trust_remote_code=code
    )
    model = model.to(accelerator.device).eval()
    options = {"end_ids": held_out.index["end_of_turn_token_ids"], "pad_token_id": held_out.index["pad_token_id"]}
    prompts = [prompt["prompt_token_ids"] for prompt in held_out.prompts]
    scored = score(model, held_out.rows, held_out.index["pad_token_id"], recipe.evaluate.max_examples)
    answers = _texts(tokenizer, answer(model, prompts, max_new_tokens=recipe.evaluate.max_new_tokens, **options))
    fixed = answer(model, prompts[:FIXED_PROMPTS], max_new_tokens=FIXED_NEW_TOKENS, batch_size=1, **options)
    right = [is_exact(text, prompt["answer"]) for text, prompt in zip(answers, held_out.prompts, strict=True)]
    judgement = Judgement(scored, answers, sum(right) / len(right), fixed)
    log.info(
        "%s: loss %.4f, token accuracy %.3f, exact match %.3f of %d",
        who, scored.loss, scored.token_accuracy, judgement.exact_match, len(right),
    )  # fmt: skip
    return judgement


def is_exact(given: str, expected: str) -> bool:
    """Whether an answer is the expected one, but for white space around it."""
    return given.strip() == expected.strip()


def _texts(tokenizer: PreTrainedTokenizerBase, answers: Sequence[list[int]]) -> list[str]:
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]


def _publish(context: StageContext, held_out: HeldOut, base: Judgement, tuned: Judgement) -> Output:
    summary = {
        "base": {**asdict(base.score), "exact_match": base.exact_match},
        "tuned": {**asdict(tuned.score), "exact_match": tuned.exact_match},
        "examples": len(held_out.prompts),
    }
    metrics = {f"{name}_{who}": summary[who][name] for name in summary["base"] for who in ("base", "tuned")}
    with context.write_output() as output:
        output.add_bytes("evaluation.json", json.dumps(summary, indent=2).encode())
        output.add_bytes("answers.jsonl", _answer_lines(held_out, base, tuned).encode())
        output.add_bytes("fixed_prompts.json", json.dumps(_fixed(held_out, base, tuned)).encode())
        return Output.of_artifact(output.publish(metrics={**metrics, "examples": len(held_out.prompts)}))


def _answer_lines(held_out: HeldOut, base: Judgement, tuned: Judgement) -> str:
    lines = []
    for prompt, by_base, by_tuned in zip(held_out.prompts, base.answers, tuned.answers, strict=True):
        line = {
            "messages": prompt["messages"],
            "prompt": prompt["prompt"],
            "expected": prompt["answer"],
            "base": by_base,
            "tuned": by_tuned,
            "base_correct": is_exact(by_base, prompt["answer"]),
            "tuned_correct": is_exact(by_tuned, prompt["answer"]),
        }
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


def _fixed(held_out: HeldOut, base: Judgement, tuned: Judgement) -> list[dict[str, Any]]:
    return [
        {
            "messages": prompt["messages"],
            "prompt": prompt["prompt"],
            "prompt_token_ids": prompt["prompt_token_ids"],
            "base_token_ids": by_base,
            "tuned_token_ids": by_tuned,
        }
        for prompt, by_base, by_tuned in zip(
            held_out.prompts, base.fixed_token_ids, tuned.fixed_token_ids, strict=False
        )
    ]
