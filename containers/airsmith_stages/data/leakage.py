"""Validation examples that also stand in the training split, to the letter or nearly.

Neither split is held in memory: of each validation example three digests are, about 400 bytes in all, and the training
examples pass by.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.examples import Example

_NOT_WORDS = re.compile(r"[\W_]+")
_ASCII_NOT_WORDS = bytes(code for code in range(128) if not chr(code).isalnum())
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Fingerprint:
    """A validation example as training examples are compared with it.

    :param squeezed: digest of its words' letters without anything between them: different here is different everywhere.
    :param normalized: digest of its words.
    :param exact: digest of its text.
    """

    place: str
    squeezed: bytes
    normalized: bytes
    exact: bytes


@dataclass(frozen=True)
class Matches:
    """Digests of training texts that are also those of validation examples."""

    normalized: frozenset[bytes] = frozenset()
    exact: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.normalized)

    def __or__(self, other: Matches) -> Matches:
        return Matches(self.normalized | other.normalized, self.exact | other.exact)


@dataclass(frozen=True)
class LeakageReport:
    """How many validation examples are known from training.

    :param exact: equal to the letter.
    :param normalized: equal but for case, white space and punctuation; includes the exact ones.
    """

    validation: int
    exact: int
    normalized: int

    def as_dict(self) -> dict[str, int]:
        """The figures for `index.json`."""
        return asdict(self)


def fingerprint(example: Example) -> Fingerprint:
    """What is kept of a validation example."""
    text = example.text()
    return Fingerprint(example.place, _digest(_squeezed(text)), _digest(_normalized(text)), _digest(text))


class ValidationTexts:
    """The validation examples, to be looked for in training examples."""

    def __init__(self, fingerprints: Iterable[Fingerprint]) -> None:
        self._fingerprints = list(fingerprints)
        self._squeezed = {one.squeezed for one in self._fingerprints}
        self._normalized = {one.normalized for one in self._fingerprints}
        self._exact = {one.exact for one in self._fingerprints}

    def matches_in(self, train: Iterable[Example]) -> Matches:
        """Those that stand among training examples."""
        # Squeezing costs a seventh of normalising, and lets hardly any example through.
        near = [text for text in (example.text() for example in train) if _digest(_squeezed(text)) in self._squeezed]
        return Matches(
            normalized=frozenset(_digest(_normalized(text)) for text in near) & self._normalized,
            exact=frozenset(_digest(text) for text in near) & self._exact,
        )

    def report(self, seen: Matches, max_fraction: float) -> LeakageReport:
        """Count leaked examples.

        :param seen: those that stand anywhere in the training split.
        :raises AirsmithError: `bad_data` where there are more than the recipe allows.
        """
        leaked = [one for one in self._fingerprints if one.normalized in seen.normalized]
        report = LeakageReport(
            validation=len(self._fingerprints),
            exact=sum(one.exact in seen.exact for one in leaked),
            normalized=len(leaked),
        )
        if report.normalized > max_fraction * report.validation:
            raise _too_many(report, leaked)
        return report


def _too_many(report: LeakageReport, leaked: Sequence[Fingerprint]) -> AirsmithError:
    return AirsmithError(
        ErrorKind.BAD_DATA,
        f"{report.normalized} of {report.validation} validation examples also stand in the training split "
        f"({report.exact} to the letter), the first in {leaked[0].place}.",
        "Remove them from one of the splits, or raise dataset.max_leakage_fraction "
        f"to {report.normalized / report.validation:.3f} or more.",
    )


def _digest(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _squeezed(text: str) -> bytes:
    """The normalized text without its spaces."""
    if text.isascii():
        return text.encode().lower().translate(None, _ASCII_NOT_WORDS) or text.encode()
    return _normalized(text).replace(" ", "").encode()


def _normalized(text: str) -> str:
    words = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text  # Two texts without a word, such as emoji, are not the same for that.
