"""The batch that a worker returns has the samples and the report of its examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airsmith.recipe.sources import DatasetSource
from airsmith_stages.data.batches import SampleBatch
from airsmith_stages.data.chat import EncodedExample
from airsmith_stages.data.examples import Example
from airsmith_stages.data.overflow import OverflowReport, fit

examples = st.lists(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 1)), min_size=1, max_size=40).map(
        lambda pairs: EncodedExample(
            Example(0),
            np.array([token for token, _ in pairs], np.uint32),
            np.array([has_loss for _, has_loss in pairs], np.uint8),
            prompt_length=1,
        )
    ),
    max_size=6,
)


@given(batch=examples, overflow=st.sampled_from(["drop", "split", "truncate"]), max_length=st.integers(8, 20))
def test_samples_survive_serialization(batch: list[EncodedExample], overflow: Any, max_length: int) -> None:
    source = DatasetSource(id="tests/data", validation_split="validation", overflow=overflow, max_length=max_length)
    fitted = SampleBatch.fitted(batch, source)
    report = OverflowReport(overflow)
    expected = list(fit(batch, max_length, report))
    assert fitted.report == report
    assert [(s.tokens.tolist(), s.loss_mask.tolist()) for s in fitted.samples()] == [
        (s.tokens.tolist(), s.loss_mask.tolist()) for s in expected
    ]
    assert all((s.tokens.dtype, s.loss_mask.dtype) == (np.uint32, np.uint8) for s in fitted.samples())


@given(batches=st.lists(examples, max_size=4))
def test_reports_of_batches_add_up_to_the_report_of_the_split(batches: list[list[EncodedExample]]) -> None:
    source = DatasetSource(id="tests/data", validation_split="validation", max_length=16)
    together = OverflowReport(source.overflow)
    for batch in batches:
        together.add(SampleBatch.fitted(batch, source).report)
    assert together == SampleBatch.fitted([example for batch in batches for example in batch], source).report
