"""Stage `tokenize`: examples become rows of tokens with a loss mask, and everything that was lost is counted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from airsmith.contracts.cache import Output
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.stages import END_TOKENS
from airsmith.recipe.sources import DatasetSource
from airsmith_stages.data.chat import ExampleTokeniser, TokenisedExample
from airsmith_stages.data.examples import Example, Splits, read_splits
from airsmith_stages.data.leakage import check_leakage
from airsmith_stages.data.overflow import OverflowReport, Sample, fit
from airsmith_stages.data.packing import pack
from airsmith_stages.data.token_shards import (
    FORMAT,
    INDEX_FILE,
    PROMPTS_FILE,
    SAMPLE_FILE,
    TokenRows,
    rows_of,
    write_rows,
)
from airsmith_stages.frame import StageContext
from airsmith_stages.tokenizer_files import TOKENIZER_FILES, generation_end_ids

log = logging.getLogger("airsmith")

BATCH_EXAMPLES = 1000


def run(context: StageContext) -> Output:
    """Tokenize both splits of the dataset."""
    source = context.spec.recipe.dataset
    tokeniser = load_tokeniser(context)
    splits = read_splits(context.fetch("mirror_dataset"), source, context.scratch / "cache")
    leakage = check_leakage(splits.train, splits.validation, source.max_leakage_fraction)
    train, train_report = _train_rows(splits, tokeniser, source)
    validation, validation_report = _validation_rows(splits, tokeniser, source)
    with context.write_output() as output:
        index = {
            "format": FORMAT,
            "max_length": source.max_length,
            "packing": source.packing,
            "pad_token_id": _pad_token_id(tokeniser.tokenizer),
            "end_of_turn_token_ids": sorted(tokeniser.end_of_turn_ids),
            "vocab_size": len(tokeniser.tokenizer),
            "splits": {
                "train": write_rows("train", train, output, context.scratch),
                "validation": write_rows("validation", _unpacked(validation), output, context.scratch),
            },
            "report": {
                "train": train_report.as_dict(),
                "validation": validation_report.as_dict(),
                "leakage": leakage.as_dict(),
                "fill": round(len(train.tokens) / (len(train) * source.max_length), 4),
            },
        }
        output.add_bytes(INDEX_FILE, json.dumps(index, indent=2).encode())
        output.add_bytes(PROMPTS_FILE, "".join(_prompt_lines(splits.validation, tokeniser, source)).encode())
        (shown,) = tokeniser([splits.train[0]])
        output.add_bytes(SAMPLE_FILE, _shown_sample(tokeniser, shown).encode())
        properties = {END_TOKENS: json.dumps(_end_tokens(tokeniser, shown))}
        return Output.of_artifact(output.publish(metrics=_metrics(index), properties=properties))


def load_tokeniser(context: StageContext) -> ExampleTokeniser:
    """The base model's tokenizer, with the recipe's chat template where it gives one."""
    base = context.input("mirror_model")
    names = [name for name in base.names() if name in TOKENIZER_FILES or name.endswith(".py")]
    folder = base.download(context.scratch / "tokenizer", names)
    recipe = context.spec.recipe
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)
        end_ids = generation_end_ids(folder)
    except Exception as error:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"The tokenizer of {recipe.model.id} cannot be loaded: {str(error).partition(chr(10))[0]}.",
            "Choose a model or a revision that has tokenizer.json and tokenizer_config.json.",
        ) from error
    if not tokenizer.is_fast:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"The tokenizer of {recipe.model.id} has no tokenizer.json, so its tokens cannot be traced to the text.",
            "Choose a revision that has one.",
        )
    return ExampleTokeniser(tokenizer, recipe.dataset.chat_template or tokenizer.chat_template, end_ids)


def _train_rows(splits: Splits, tokeniser: ExampleTokeniser, source: DatasetSource) -> tuple[TokenRows, OverflowReport]:
    samples, report = _samples(splits.train, tokeniser, source, source.split)
    if source.packing == "none":
        rows = [[index] for index in range(len(samples))]
    else:
        rows = pack([len(sample.tokens) for sample in samples], source.max_length, source.seed)
    return rows_of(samples, rows), report


def _validation_rows(
    splits: Splits, tokeniser: ExampleTokeniser, source: DatasetSource
) -> tuple[list[Sample], OverflowReport]:
    return _samples(splits.validation, tokeniser, source, source.validation_split or "held-out part")


def _unpacked(samples: list[Sample]) -> TokenRows:
    """Validation rows are never packed, so that each is judged alone."""
    return rows_of(samples, [[index] for index in range(len(samples))])


def _samples(
    examples: list[Example], tokeniser: ExampleTokeniser, source: DatasetSource, split: str
) -> tuple[list[Sample], OverflowReport]:
    report = OverflowReport(source.overflow)
    samples = list(fit(_tokenised(examples, tokeniser), source.max_length, report))
    if report.too_long:
        log.warning(
            "%d of %d examples of %r are longer than dataset.max_length %d (overflow: %s): %d tokens dropped",
            report.too_long, report.read, split, source.max_length, source.overflow, report.dropped_tokens,
        )  # fmt: skip
    if not samples:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"No example of {split!r} fits into dataset.max_length {source.max_length} tokens.",
            "Raise dataset.max_length or set dataset.overflow to 'truncate' or 'split'.",
        )
    log.info("%s: %d examples, %d tokens", split, report.kept, report.kept_tokens)
    return samples, report


def _tokenised(examples: list[Example], tokeniser: ExampleTokeniser) -> Iterator[TokenisedExample]:
    remaining = iter(examples)
    while batch := list(islice(remaining, BATCH_EXAMPLES)):
        yield from tokeniser(batch)


def _prompt_lines(examples: list[Example], tokeniser: ExampleTokeniser, source: DatasetSource) -> Iterator[str]:
    """The validation examples as questions with their expected answers, those that a row would hold."""
    for tokenised in _tokenised(examples, tokeniser):
        if len(tokenised.tokens) > source.max_length:
            continue
        example, split_at = tokenised.example, tokenised.prompt_length
        answer_mask = tokenised.loss_mask[split_at:].astype(bool)
        line: dict[str, Any] = {
            "prompt_token_ids": tokenised.tokens[:split_at].tolist(),
            "messages": list(example.messages[:-1]) or None,
            "prompt": tokeniser.render_prompt(example),
            "answer": example.messages[-1]["content"] if example.is_conversation else example.completion,
            "answer_token_ids": tokenised.tokens[split_at:][answer_mask].tolist(),
        }
        yield json.dumps(line) + "\n"


def _end_tokens(tokeniser: ExampleTokeniser, example: TokenisedExample) -> list[int]:
    """Tokens at which the model learns to stop: EOS, and whatever an answer ends with here."""
    eos = tokeniser.tokenizer.eos_token_id
    last_learnt = int(example.tokens[np.flatnonzero(example.loss_mask)[-1]])
    return list(dict.fromkeys([last_learnt] if eos is None else [int(eos), last_learnt]))


def _shown_sample(tokeniser: ExampleTokeniser, tokenised: TokenisedExample) -> str:
    """One example as the model sees it; what is learnt stands between ⟦ and ⟧."""
    pairs = zip(tokenised.tokens.tolist(), tokenised.loss_mask.tolist(), strict=True)
    shown = []
    for learnt, run_of_tokens in groupby(pairs, key=itemgetter(1)):
        text = tokeniser.tokenizer.decode([token for token, _ in run_of_tokens], clean_up_tokenization_spaces=False)
        shown.append(f"⟦{text}⟧" if learnt else text)
    return "".join(shown) + "\n"


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills a row's end; never learnt and never attended to, so any id will do."""
    return int(next((value for value in (tokenizer.pad_token_id, tokenizer.eos_token_id) if value is not None), 0))


def _metrics(index: dict[str, Any]) -> dict[str, int | float]:
    train, validation = index["splits"]["train"], index["splits"]["validation"]
    return {
        "train_rows": train["rows"],
        "train_tokens": train["tokens"],
        "train_loss_tokens": train["loss_tokens"],
        "validation_rows": validation["rows"],
        "dropped_tokens": index["report"]["train"]["dropped_tokens"],
        "leaked_examples": index["report"]["leakage"]["normalised"],
        "fill": index["report"]["fill"],
    }
