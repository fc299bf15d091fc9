"""Validation examples that also stand in the training split, to the letter or nearly."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.data.examples import Example

_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class LeakageReport:
    """How many validation examples are known from training.

    :param exact: equal to the letter.
    :param normalised: equal but for case, white space and punctuation; includes the exact ones.
    """

    validation: int
    exact: int
    normalised: int

    def as_dict(self) -> dict[str, int]:
        """The figures for `index.json`."""
        return asdict(self)


def check_leakage(train: Iterable[Example], validation: list[Example], most_fraction: float) -> LeakageReport:
    """Count leaked examples.

    :raises AirsmithError: `bad_data` where there are more than the recipe allows.
    """
    texts = {example.text() for example in train}
    normalised = {_normalised(text) for text in texts}
    leaked = [example for example in validation if _normalised(example.text()) in normalised]
    report = LeakageReport(
        validation=len(validation),
        exact=sum(example.text() in texts for example in leaked),
        normalised=len(leaked),
    )
    if report.normalised > most_fraction * len(validation):
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"{report.normalised} of {len(validation)} validation examples also stand in the training split "
            f"({report.exact} to the letter), the first in {leaked[0].place}.",
            "Remove them from one of the splits, or raise dataset.max_leakage_fraction "
            f"to {report.normalised / len(validation):.3f} or more.",
        )
    return report


def _normalised(text: str) -> str:
    words = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text  # Two texts without a word, such as emoji, are not the same for that.
