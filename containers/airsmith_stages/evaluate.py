"""Stage `evaluate`: evaluate base and tuned model on the same held-out examples, and publish their answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airsmith.contracts.cache import Output
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.devices import get_device
from airsmith_stages.stage_context import StageContext

if TYPE_CHECKING:
    from airsmith_stages.evaluating.evaluation import Evaluation, HeldOut

EVALUATION_FILE, ANSWERS_FILE, FIXED_PROMPTS_FILE = "evaluation.json", "answers.jsonl", "fixed_prompts.json"


def run(context: StageContext) -> Output:
    """Evaluate the base model, then the tuned model; only one of them is in memory at a time."""
    recipe = context.spec.recipe
    device = get_device(recipe.evaluate_backend)
    device.prepare()
    # This imports torch, so `prepare` must run before.
    from airsmith_stages.evaluating.evaluation import evaluate_model

    held_out = _read_held_out(context)
    base = evaluate_model("base", context.fetch("mirror_model"), held_out, recipe, device)
    tuned = evaluate_model("tuned", context.fetch("merge"), held_out, recipe, device)
    return _publish(context, held_out, base, tuned)


def _read_held_out(context: StageContext) -> HeldOut:
    from airsmith_stages.data.token_shards import INDEX_FILE, PROMPTS_FILE, read_rows, shard_names
    from airsmith_stages.evaluating.evaluation import HeldOut

    tokens = context.input("tokenize")
    index = json.loads(tokens.read(INDEX_FILE))
    folder = context.fetch("tokenize", [INDEX_FILE, PROMPTS_FILE, *shard_names(index, "validation")])
    prompts = [json.loads(line) for line in (folder / PROMPTS_FILE).read_bytes().splitlines()]
    if not prompts:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"No validation example fits into dataset.max_length {index['max_length']} as a whole, so there is no "
            "prompt to evaluate.",
            "Raise dataset.max_length.",
        )
    max_examples = context.spec.recipe.evaluate.max_examples
    return HeldOut(
        prompts=prompts,
        examples=len(prompts) if max_examples is None else min(max_examples, len(prompts)),
        rows=read_rows(folder, "validation"),
        pad_token_id=index["pad_token_id"],
    )


def _publish(context: StageContext, held_out: HeldOut, base: Evaluation, tuned: Evaluation) -> Output:
    by_model = {label: _metrics(evaluation) for label, evaluation in (("base", base), ("tuned", tuned))}
    metrics = {f"{name}_{label}": value for label in by_model for name, value in by_model[label].items()}
    with context.write_output() as output:
        summary = {**by_model, "examples": held_out.examples}
        output.add_bytes(EVALUATION_FILE, json.dumps(summary, indent=2).encode())
        output.add_bytes(ANSWERS_FILE, _json_lines(_compared_answers(held_out, base, tuned)))
        output.add_bytes(FIXED_PROMPTS_FILE, json.dumps(_fixed_prompts(held_out, base, tuned)).encode())
        return Output.of_artifact(output.publish(metrics={**metrics, "examples": held_out.examples}))


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    return {**asdict(evaluation.score), "exact_match": evaluation.exact_match}


def _compared_answers(held_out: HeldOut, base: Evaluation, tuned: Evaluation) -> Iterable[dict[str, Any]]:
    for index, prompt in enumerate(held_out.answered):
        yield {
            "messages": prompt["messages"],
            "prompt": prompt["prompt"],
            "expected": prompt["answer"],
            "base": base.answers[index],
            "tuned": tuned.answers[index],
            "base_correct": base.correct[index],
            "tuned_correct": tuned.correct[index],
        }


def _fixed_prompts(held_out: HeldOut, base: Evaluation, tuned: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "messages": prompt["messages"],
            "prompt": prompt["prompt"],
            "prompt_token_ids": prompt["prompt_token_ids"],
            "base_token_ids": base.fixed_token_ids[index],
            "tuned_token_ids": tuned.fixed_token_ids[index],
        }
        for index, prompt in enumerate(held_out.fixed)
    ]


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
