"""Find validation examples that also occur in the training split, exactly or nearly.

Neither split is held in memory: only three digests per validation example, about 400 bytes in total, against which the
training examples are streamed.
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
    """Digests of a validation example, to compare training examples with.

    :param squeezed: digest of its normalized text without spaces; if it differs, the other two differ as well.
    :param normalized: digest of its normalized text.
    :param exact: digest of its text.
    """

    place: str
    squeezed: bytes
    normalized: bytes
    exact: bytes


@dataclass(frozen=True)
class Matches:
    """Digests of training texts that match validation examples."""

    normalized: frozenset[bytes] = frozenset()
    exact: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.normalized)

    def __or__(self, other: Matches) -> Matches:
        return Matches(self.normalized | other.normalized, self.exact | other.exact)


@dataclass(frozen=True)
class LeakageReport:
    """Number of validation examples that occur in the training split.

    :param exact: exactly equal.
    :param normalized: equal except for case, white space and punctuation; includes exact matches.
    """

    validation: int
    exact: int
    normalized: int

    def as_dict(self) -> dict[str, int]:
        """The counts for `index.json`."""
        return asdict(self)


def fingerprint(example: Example) -> Fingerprint:
    """The fingerprint of a validation example."""
    text = example.text()
    return Fingerprint(example.place, _digest(_squeezed(text)), _digest(_normalized(text)), _digest(text))


class ValidationTexts:
    """The validation examples to find in training examples."""

    def __init__(self, fingerprints: Iterable[Fingerprint]) -> None:
        self._fingerprints = list(fingerprints)
        self._squeezed = {one.squeezed for one in self._fingerprints}
        self._normalized = {one.normalized for one in self._fingerprints}
        self._exact = {one.exact for one in self._fingerprints}

    def matches_in(self, train: Iterable[Example]) -> Matches:
        """Validation examples that occur among the training examples."""
        # Squeezing costs a seventh of normalizing and filters out almost all examples.
        near = [text for text in (example.text() for example in train) if _digest(_squeezed(text)) in self._squeezed]
        return Matches(
            normalized=frozenset(_digest(_normalized(text)) for text in near) & self._normalized,
            exact=frozenset(_digest(text) for text in near) & self._exact,
        )

    def report(self, matches: Matches, max_fraction: float) -> LeakageReport:
        """Count leaked examples.

        :param matches: matches in the whole training split.
        :raises AirsmithError: `bad_data` if there are more than the recipe allows.
        """
        leaked = [one for one in self._fingerprints if one.normalized in matches.normalized]
        report = LeakageReport(
            validation=len(self._fingerprints),
            exact=sum(one.exact in matches.exact for one in leaked),
            normalized=len(leaked),
        )
        if report.normalized > max_fraction * report.validation:
            raise _too_many(report, leaked)
        return report


def _too_many(report: LeakageReport, leaked: Sequence[Fingerprint]) -> AirsmithError:
    return AirsmithError(
        ErrorKind.BAD_DATA,
        f"{report.normalized} of {report.validation} validation examples also occur in the training split "
        f"({report.exact} exactly); the first is {leaked[0].place}.",
        "Remove them from one of the splits, or raise dataset.max_leakage_fraction "
        f"to {report.normalized / report.validation:.3f} or more.",
    )


def _digest(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _squeezed(text: str) -> bytes:
    """The normalized text without spaces."""
    if text.isascii():
        return text.encode().lower().translate(None, _ASCII_NOT_WORDS) or text.encode()
    return _normalized(text).replace(" ", "").encode()


def _normalized(text: str) -> str:
    words = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text  # Texts without a word, such as emoji, must not all be equal.
