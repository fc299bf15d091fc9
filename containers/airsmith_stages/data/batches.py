"""Process a batch of examples in one worker process, which returns a few arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airsmith.recipe.sources import DatasetSource
from airsmith_stages.data.chat import EncodedExample, ExampleEncoder
from airsmith_stages.data.examples import Examples
from airsmith_stages.data.leakage import Fingerprint, Matches, ValidationTexts, fingerprint
from airsmith_stages.data.overflow import OverflowReport, Sample, fit


@dataclass(frozen=True)
class SampleBatch:
    """Concatenated samples, and counts of what was dropped.

    :param lengths: int64, tokens per sample.
    """

    tokens: NDArray[np.uint32]
    loss_mask: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    report: OverflowReport

    @classmethod
    def fitted(cls, examples: Iterable[EncodedExample], source: DatasetSource) -> SampleBatch:
        """Fit encoded examples to the recipe's row length."""
        report = OverflowReport(source.overflow)
        samples = list(fit(examples, source.max_length, report))
        return cls(
            tokens=np.concatenate([np.empty(0, np.uint32), *(sample.tokens for sample in samples)]),
            loss_mask=np.concatenate([np.empty(0, np.uint8), *(sample.loss_mask for sample in samples)]),
            lengths=np.array([len(sample.tokens) for sample in samples], dtype=np.int64),
            report=report,
        )

    def samples(self) -> Iterator[Sample]:
        """The samples, as views."""
        ends = self.lengths.cumsum()
        for start, end in zip((ends - self.lengths).tolist(), ends.tolist(), strict=True):
            yield Sample(self.tokens[start:end], self.loss_mask[start:end])


@dataclass(frozen=True)
class TrainBatch:
    """A batch of the training split.

    :param matches: its matches with validation examples.
    """

    samples: SampleBatch
    matches: Matches


@dataclass(frozen=True)
class ValidationBatch:
    """A batch of the validation split.

    :param prompts: JSON lines with prompts and expected answers of the examples that fit into a row.
    """

    samples: SampleBatch
    fingerprints: list[Fingerprint]
    prompts: bytes


def train_batch(
    numbers: range, *, examples: Examples, encoder: ExampleEncoder, validation: ValidationTexts
) -> TrainBatch:
    """Encode some rows of the training split."""
    read = examples.read(numbers)
    encoded = encoder(read, with_prompts=False)
    return TrainBatch(SampleBatch.fitted(encoded, examples.source), validation.matches_in(read))


def validation_batch(numbers: range, *, examples: Examples, encoder: ExampleEncoder) -> ValidationBatch:
    """Encode some rows of the validation split."""
    read = examples.read(numbers)
    encoded = encoder(read)
    prompts = [_prompt_line(one, encoder) for one in encoded if len(one.tokens) <= examples.source.max_length]
    return ValidationBatch(
        SampleBatch.fitted(encoded, examples.source),
        [fingerprint(example) for example in read],
        "".join(prompts).encode(),
    )


def _prompt_line(encoded: EncodedExample, encoder: ExampleEncoder) -> str:
    example, split_at = encoded.example, encoded.prompt_length
    answer_mask = encoded.loss_mask[split_at:].astype(bool)
    line: dict[str, Any] = {
        "prompt_token_ids": encoded.tokens[:split_at].tolist(),
        "messages": list(example.messages[:-1]) or None,
        "prompt": encoder.render_prompt(example),
        "answer": example.messages[-1]["content"] if example.is_conversation else example.completion,
        "answer_token_ids": encoded.tokens[split_at:][answer_mask].tolist(),
    }
    return json.dumps(line) + "\n"
