"""The agreement of two answers: of the first 16 tokens, those up to and including the first difference count."""

from __future__ import annotations

from collections.abc import Mapping

from airsmith_stages.smoke_test import SmokeReport, compare
from tests.support.tiny_models import answer_token_ids, letters, tokenizer


def report(pairs: Mapping[str, str], base: str = letters(3, 3)) -> SmokeReport:
    """Compare answers.

    :param pairs: served answers by evaluated answers.
    """
    prompts = [
        {"tuned_token_ids": answer_token_ids(tuned), "base_token_ids": answer_token_ids(base)} for tuned in pairs
    ]
    return compare(prompts, list(pairs.values()), tokenizer().backend_tokenizer)


def test_all_agree() -> None:
    assert report({letters(1, 2): letters(1, 2), letters(4): letters(4)}) == SmokeReport(2, 1.0, 2, 2)


def test_nothing_after_the_first_difference_counts() -> None:
    assert report({letters(1, 2, 4, 5, 6, 7): letters(1, 2, 0, 5, 6, 7)}).agreement == 2 / 3


def test_a_shorter_or_longer_answer_differs_in_one_token() -> None:
    assert report({letters(1, 2, 4): letters(1, 2)}).agreement == 2 / 3
    assert report({letters(1, 2): letters(1, 2, 4)}).agreement == 2 / 3


def test_one_early_difference_in_many_answers_passes() -> None:
    long = [letters(*[(n + m) % 8 for m in range(16)]) for n in range(8)]
    served = {answer: answer for answer in long} | {long[3]: long[3][:-4] + letters(3, 3)}
    assert 0.95 < report(served).agreement < 1


def test_only_the_first_sixteen_tokens_count() -> None:
    begin = letters(*[4, 5] * 8)
    assert report({f"{begin} {letters(1, 2)}": begin}).agreement == 1


def test_models_that_differ_after_sixteen_tokens_count_as_equal() -> None:
    begin = letters(*[4, 5] * 8)
    served_report = report({f"{begin} {letters(1)}": begin}, base=f"{begin} {letters(2)}")
    assert (served_report.differing_prompts, served_report.unlike_base) == (0, 0)


def test_surrounding_white_space_is_ignored() -> None:
    assert report({f" {letters(1, 2)}\n": letters(1, 2)}).agreement == 1


def test_another_tokenization_of_the_same_text_is_no_difference() -> None:
    """A model may generate a word in several tokens, which the server's text does not show."""
    pieces = [token for letter in "kettle" for token in tokenizer()(letter)["input_ids"]]
    assert len(pieces) > len(tokenizer()("kettle")["input_ids"])
    prompts = [{"tuned_token_ids": pieces, "base_token_ids": answer_token_ids("cat")}]
    assert compare(prompts, ["kettle"], tokenizer().backend_tokenizer).agreement == 1
