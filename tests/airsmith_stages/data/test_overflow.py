"""Examples longer than a row are handled by the recipe's policy, and every dropped token is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith_stages.data.chat import EncodedExample
from airsmith_stages.data.examples import Example
from airsmith_stages.data.overflow import OverflowReport, Sample, fit

POLICIES: list[Any] = ["drop", "split", "truncate"]


def example(tokens: list[int], mask: list[int]) -> EncodedExample:
    return EncodedExample(Example(0), np.array(tokens, np.uint32), np.array(mask, np.uint8), prompt_length=1)


masked = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 1)), min_size=1, max_size=40)
examples = st.lists(
    masked.map(lambda pairs: example([token for token, _ in pairs], [0, *(bit for _, bit in pairs[1:])])), max_size=8
)


def fitted(given_examples: list[EncodedExample], policy: Any, max_length: int = 10) -> tuple[list[Sample], Any]:
    report = OverflowReport(policy)
    return list(fit(given_examples, max_length, report)), report


@given(examples=examples, policy=st.sampled_from(POLICIES), max_length=st.integers(1, 12))
def test_no_sample_is_longer_than_a_row_and_every_token_is_counted(
    examples: list[EncodedExample], policy: Any, max_length: int
) -> None:
    samples, report = fitted(examples, policy, max_length)
    assert all(1 <= len(sample.tokens) == len(sample.loss_mask) <= max_length for sample in samples)
    assert report.read == len(examples)
    assert report.read_tokens == sum(len(example.tokens) for example in examples)
    assert report.kept_tokens == sum(len(sample.tokens) for sample in samples)
    assert report.dropped_tokens == report.read_tokens - report.kept_tokens >= 0
    assert report.too_long == sum(len(example.tokens) > max_length for example in examples)
    assert all(sample.loss_mask.any() and not sample.loss_mask[0] for sample in samples)


@given(examples=examples)
def test_examples_that_fit_are_unchanged(examples: list[EncodedExample]) -> None:
    examples_with_loss = [example for example in examples if example.loss_mask.any()]
    for policy in POLICIES:
        samples, report = fitted(examples_with_loss, policy, max_length=40)
        assert [(s.tokens.tolist(), s.loss_mask.tolist()) for s in samples] == [
            (e.tokens.tolist(), e.loss_mask.tolist()) for e in examples_with_loss
        ]
        assert (report.dropped_tokens, report.too_long, report.kept) == (0, 0, len(examples_with_loss))


@pytest.mark.parametrize(
    ("policy", "lengths", "dropped"), [("drop", [4], 25), ("truncate", [4, 10], 15), ("split", [4, 10, 10, 5], 0)]
)
def test_each_policy(policy: str, lengths: list[int], dropped: int) -> None:
    short, long = (example(list(range(size)), [0, *([1] * (size - 1))]) for size in (4, 25))
    samples, report = fitted([short, long], policy)
    assert [len(sample.tokens) for sample in samples] == lengths
    assert (report.too_long, report.dropped_tokens, report.read) == (1, dropped, 2)
    assert report.as_dict()["dropped_tokens"] == dropped
    if policy == "split":
        assert np.concatenate([sample.tokens for sample in samples[1:]]).tolist() == list(range(25))


def test_the_first_token_of_a_piece_has_no_loss() -> None:
    samples, _ = fitted([example(list(range(12)), [0] + [1] * 11)], "split")
    assert [sample.loss_mask.tolist() for sample in samples] == [[0] + [1] * 9, [0, 1]]


@pytest.mark.parametrize("policy", ["truncate", "split"])
def test_a_piece_without_loss_is_dropped_and_counted(policy: str) -> None:
    samples, report = fitted([example(list(range(15)), [0] * 10 + [1] * 5)], policy)
    assert [sample.tokens.tolist() for sample in samples] == ([[10, 11, 12, 13, 14]] if policy == "split" else [])
    assert (report.without_loss, report.kept) == (1, len(samples))
    assert report.dropped_tokens == 15 - sum(len(sample.tokens) for sample in samples)
