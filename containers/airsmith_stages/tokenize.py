"""Stage `tokenize`: convert examples to rows of tokens with a loss mask, and count everything that is dropped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial, reduce
from itertools import groupby
from operator import itemgetter, or_
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from airsmith.artifacts.publish import ArtifactWriter
from airsmith.contracts.cache import Output
from airsmith.contracts.stages import END_TOKENS
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.sources import DatasetSource
from airsmith_stages.data.batches import SampleBatch, TrainBatch, ValidationBatch, train_batch, validation_batch
from airsmith_stages.data.chat import EncodedExample, ExampleEncoder
from airsmith_stages.data.examples import Examples, read_splits
from airsmith_stages.data.leakage import Fingerprint, Matches, ValidationTexts
from airsmith_stages.data.overflow import OverflowReport, Sample
from airsmith_stages.data.packing import pack
from airsmith_stages.data.parallel import map_in_order, process_count
from airsmith_stages.data.token_shards import (
    FORMAT,
    INDEX_FILE,
    PROMPTS_FILE,
    SAMPLE_FILE,
    Arrange,
    one_sample_per_row,
    write_split,
)
from airsmith_stages.stage_context import StageContext
from airsmith_stages.tokenizer_files import TOKENIZER_FILES, generation_end_ids

log = logging.getLogger("airsmith")

Batch = TypeVar("Batch")

MIN_PARALLEL_ROWS = 2048
"""Rows that one process encodes in about a second; fewer are not worth starting processes for."""


@dataclass(frozen=True)
class _Written:
    """A written split.

    :param entry: its entry in the index.
    """

    entry: dict[str, Any]
    report: OverflowReport


def run(context: StageContext) -> Output:
    """Tokenize both splits of the dataset as a stream of examples, and write their rows in shards."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Each core has its own process, and threads do not survive a fork.
    source = context.spec.recipe.dataset
    encoder = load_encoder(context)
    splits = read_splits(context.fetch("mirror_dataset"), source, context.scratch / "cache")
    with context.write_output() as output:
        validation, validation_texts = _write_validation(splits.validation, encoder, output, context.scratch)
        train, matches = _write_train(splits.train, encoder, validation_texts, output)
        leakage = validation_texts.report(matches, source.max_leakage_fraction)
        index = {
            "format": FORMAT,
            "max_length": source.max_length,
            "packing": source.packing,
            "pad_token_id": _pad_token_id(encoder.tokenizer),
            "end_of_turn_token_ids": sorted(encoder.end_of_turn_ids),
            "vocab_size": len(encoder.tokenizer),
            "splits": {"train": train.entry, "validation": validation.entry},
            "report": {
                "train": train.report.as_dict(),
                "validation": validation.report.as_dict(),
                "leakage": leakage.as_dict(),
                "fill": round(train.entry["tokens"] / (train.entry["rows"] * source.max_length), 4),
            },
        }
        output.add_bytes(INDEX_FILE, json.dumps(index, indent=2).encode())
        (sample,) = encoder([next(iter(splits.train))])
        output.add_bytes(SAMPLE_FILE, _sample_text(encoder, sample).encode())
        properties = {END_TOKENS: json.dumps(_end_tokens(encoder, sample))}
        return Output.of_artifact(output.publish(metrics=_metrics(index), properties=properties))


def load_encoder(context: StageContext) -> ExampleEncoder:
    """The encoder with the base model's tokenizer and the recipe's chat template, if set."""
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
            f"The tokenizer of {recipe.model.id} has no tokenizer.json, so its tokens cannot be mapped to the text.",
            "Choose a revision with tokenizer.json.",
        )
    return ExampleEncoder(tokenizer, recipe.dataset.chat_template or tokenizer.chat_template, end_ids)


def _write_validation(
    examples: Examples, encoder: ExampleEncoder, output: ArtifactWriter, scratch: Path
) -> tuple[_Written, ValidationTexts]:
    """Write the validation rows; they are never packed, so that each is evaluated alone."""
    work = partial(validation_batch, examples=examples, encoder=encoder)
    fingerprints: list[Fingerprint] = []
    with (scratch / PROMPTS_FILE).open("wb") as prompts:

        def keep(batch: ValidationBatch) -> SampleBatch:
            fingerprints.extend(batch.fingerprints)
            prompts.write(batch.prompts)
            return batch.samples

        written = _write("validation", examples, work, keep, one_sample_per_row, output)
    output.add_file(PROMPTS_FILE, scratch / PROMPTS_FILE)
    return written, ValidationTexts(fingerprints)


def _write_train(
    examples: Examples, encoder: ExampleEncoder, validation: ValidationTexts, output: ArtifactWriter
) -> tuple[_Written, Matches]:
    """Write the training rows, and collect their matches with validation examples."""
    work = partial(train_batch, examples=examples, encoder=encoder, validation=validation)
    matches: list[Matches] = []

    def keep(batch: TrainBatch) -> SampleBatch:
        if batch.matches:
            matches.append(batch.matches)
        return batch.samples

    written = _write("train", examples, work, keep, _arrangement(examples.source), output)
    return written, reduce(or_, matches, Matches())


def _write(
    split: str,
    examples: Examples,
    work: Callable[[range], Batch],
    keep: Callable[[Batch], SampleBatch],
    arrange: Arrange,
    output: ArtifactWriter,
) -> _Written:
    """Encode batches on all cores and write their samples in order.

    :param keep: collects the other data of a batch and returns its samples.
    """
    report = OverflowReport(examples.source.overflow)

    def samples_of(batches: Iterable[Batch]) -> Iterator[Sample]:
        for batch in map(keep, batches):
            report.add(batch.report)
            yield from batch.samples()

    with closing(map_in_order(work, examples.batches(), _processes(examples))) as batches:
        entry = write_split(split, samples_of(batches), arrange, output)
    _log_dropped(report, examples.source, split)
    return _Written(entry, report)


def _processes(examples: Examples) -> int:
    """Number of processes; one for small datasets, where starting more costs more than it saves."""
    return process_count() if len(examples.rows) > MIN_PARALLEL_ROWS else 1


def _arrangement(source: DatasetSource) -> Arrange:
    if source.packing == "none":
        return one_sample_per_row
    return lambda lengths, window: pack(lengths, source.max_length, source.seed + window)


def _log_dropped(report: OverflowReport, source: DatasetSource, split: str) -> None:
    """Log dropped tokens.

    :raises AirsmithError: `bad_data` if no example fits.
    """
    name = source.split if split == "train" else source.validation_split or "held-out part"
    if report.too_long:
        log.warning(
            "%d of %d examples of %r are longer than dataset.max_length %d (overflow: %s): %d tokens dropped",
            report.too_long, report.read, name, source.max_length, source.overflow, report.dropped_tokens,
        )  # fmt: skip
    if not report.kept:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"No example of {name!r} fits into dataset.max_length {source.max_length} tokens.",
            "Raise dataset.max_length or set dataset.overflow to 'truncate' or 'split'.",
        )
    log.info("%s: %d examples, %d tokens", name, report.kept, report.kept_tokens)


def _end_tokens(encoder: ExampleEncoder, example: EncodedExample) -> list[int]:
    """Tokens at which the model learns to stop: EOS, and the last token of an answer."""
    eos = encoder.tokenizer.eos_token_id
    last_trained = int(example.tokens[np.flatnonzero(example.loss_mask)[-1]])
    return list(dict.fromkeys([last_trained] if eos is None else [int(eos), last_trained]))


def _sample_text(encoder: ExampleEncoder, encoded: EncodedExample) -> str:
    """One example as the model sees it; text that contributes to the loss is between ⟦ and ⟧."""
    pairs = zip(encoded.tokens.tolist(), encoded.loss_mask.tolist(), strict=True)
    shown = []
    for has_loss, run_of_tokens in groupby(pairs, key=itemgetter(1)):
        text = encoder.tokenizer.decode([token for token, _ in run_of_tokens], clean_up_tokenization_spaces=False)
        shown.append(f"⟦{text}⟧" if has_loss else text)
    return "".join(shown) + "\n"


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Token that pads a row; it has no loss and no attention, so any id works."""
    return int(next((value for value in (tokenizer.pad_token_id, tokenizer.eos_token_id) if value is not None), 0))


def _metrics(index: dict[str, Any]) -> dict[str, int | float]:
    train, validation = index["splits"]["train"], index["splits"]["validation"]
    return {
        "train_rows": train["rows"],
        "train_tokens": train["tokens"],
        "train_loss_tokens": train["loss_tokens"],
        "validation_rows": validation["rows"],
        "dropped_tokens": index["report"]["train"]["dropped_tokens"],
        "leaked_examples": index["report"]["leakage"]["normalized"],
        "fill": index["report"]["fill"],
    }
