"""Validation examples that also occur in training are counted, and refused above the limit."""

from __future__ import annotations

from functools import reduce
from operator import or_

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data import leakage
from airsmith_stages.data.examples import Example
from airsmith_stages.data.leakage import LeakageReport, Matches, ValidationTexts, fingerprint
from tests.support.dataset_files import chat


def conversations(*texts: str) -> list[Example]:
    return [Example(n, messages=tuple(chat(text, "ok")), split="validation") for n, text in enumerate(texts)]


def check_leakage(train: list[Example], validation: list[Example], max_fraction: float) -> LeakageReport:
    """Check the training examples one by one."""
    known = ValidationTexts(fingerprint(example) for example in validation)
    seen = reduce(or_, (known.matches_in([example]) for example in train), Matches())
    return known.report(seen, max_fraction)


TRAIN = conversations("The kettle is cold.", "Where is my bill?", "Straße", "🦊")


def test_exact_and_normalized_matches_are_counted_separately() -> None:
    validation = conversations("Where is my bill?", "the KETTLE,  is cold", "STRASSE!", "another", "Where is my bull?")
    report = check_leakage(TRAIN, validation, max_fraction=1.0)
    assert report == LeakageReport(validation=5, exact=1, normalized=3)
    assert report.as_dict() == {"validation": 5, "exact": 1, "normalized": 3}


def test_the_limit_is_the_largest_fraction_that_passes() -> None:
    validation = conversations("x", "Where is my bill?", "y", "z")
    assert check_leakage(TRAIN, validation, max_fraction=0.25).normalized == 1
    with pytest.raises(AirsmithError) as refused:
        check_leakage(TRAIN, validation, max_fraction=0.24)
    assert refused.value.kind is ErrorKind.BAD_DATA
    for word in ("1 of 4", "row 1 of 'validation'", "dataset.max_leakage_fraction", "0.250"):
        assert word in str(refused.value)


def test_no_leakage_passes_by_default() -> None:
    assert check_leakage(TRAIN, conversations("new"), max_fraction=0.0).normalized == 0
    with pytest.raises(AirsmithError):
        check_leakage(TRAIN, conversations("new", "straße"), max_fraction=0.0)


def test_the_same_question_with_another_answer_is_another_example() -> None:
    other = [Example(0, messages=tuple(chat("Where is my bill?", "no")))]
    assert check_leakage(TRAIN, other, max_fraction=0.0).normalized == 0


def test_texts_without_words_are_not_all_equal() -> None:
    plain = [Example(0, prompt="🦊", completion="!"), Example(1, prompt="?", completion="…")]
    assert check_leakage(plain[:1], plain[1:], max_fraction=0.0).normalized == 0
    assert check_leakage(plain[:1], plain[:1], max_fraction=1.0).exact == 1


near_texts = st.lists(st.text(st.sampled_from("aAß _-.,!ﬁſ²½İıΣς\u0301é🦊\n"), max_size=8), max_size=12)


@given(train=near_texts, validation=near_texts)
def test_all_matches_are_found_for_any_text(train: list[str], validation: list[str]) -> None:
    known, validation_examples = ([Example(0, completion=text) for text in texts] for texts in (train, validation))
    report = check_leakage(known, validation_examples, max_fraction=1.0)
    texts = {example.text() for example in known}
    assert report.exact == sum(example.text() in texts for example in validation_examples)
    normalized = {leakage._normalized(text) for text in texts}
    assert report.normalized == sum(
        leakage._normalized(example.text()) in normalized for example in validation_examples
    )
