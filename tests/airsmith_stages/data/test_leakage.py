"""Validation examples that training has seen are counted, and refused above the bound."""

from __future__ import annotations

import pytest
from data_fixtures import chat

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.data.examples import Example
from airsmith_stages.data.leakage import LeakageReport, check_leakage


def conversations(*texts: str) -> list[Example]:
    return [Example(n, messages=tuple(chat(text, "ok")), split="validation") for n, text in enumerate(texts)]


TRAIN = conversations("The kettle is cold.", "Where is my bill?", "Straße", "🦊")


def test_to_the_letter_and_nearly_are_counted_apart() -> None:
    validation = conversations("Where is my bill?", "the KETTLE,  is cold", "STRASSE!", "another", "Where is my bull?")
    report = check_leakage(TRAIN, validation, most_fraction=1.0)
    assert report == LeakageReport(validation=5, exact=1, normalised=3)
    assert report.as_dict() == {"validation": 5, "exact": 1, "normalised": 3}


def test_the_bound_is_the_largest_share_that_passes() -> None:
    validation = conversations("x", "Where is my bill?", "y", "z")
    assert check_leakage(TRAIN, validation, most_fraction=0.25).normalised == 1
    with pytest.raises(AirsmithError) as refused:
        check_leakage(TRAIN, validation, most_fraction=0.24)
    assert refused.value.kind is ErrorKind.BAD_DATA
    for word in ("1 of 4", "row 1 of 'validation'", "dataset.max_leakage_fraction", "0.250"):
        assert word in str(refused.value)


def test_nothing_leaks_by_default() -> None:
    assert check_leakage(TRAIN, conversations("new"), most_fraction=0.0).normalised == 0
    with pytest.raises(AirsmithError):
        check_leakage(TRAIN, conversations("new", "straße"), most_fraction=0.0)


def test_the_same_question_with_another_answer_is_another_example() -> None:
    other = [Example(0, messages=tuple(chat("Where is my bill?", "no")))]
    assert check_leakage(TRAIN, other, most_fraction=0.0).normalised == 0


def test_texts_without_a_word_are_not_all_the_same() -> None:
    plain = [Example(0, prompt="🦊", completion="!"), Example(1, prompt="?", completion="…")]
    assert check_leakage(plain[:1], plain[1:], most_fraction=0.0).normalised == 0
    assert check_leakage(plain[:1], plain[:1], most_fraction=1.0).exact == 1
