"""Drop, truncate or split examples longer than a row, and count them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from airsmith_stages.data.chat import EncodedExample

Policy = Literal["drop", "split", "truncate"]


@dataclass(frozen=True)
class Sample:
    """Tokens that fit into a row, with their loss mask."""

    tokens: NDArray[np.uint32]
    loss_mask: NDArray[np.uint8]


@dataclass
class OverflowReport:
    """Counts of a split's examples.

    :ivar dropped_tokens: tokens of dropped examples and of truncated ends.
    :ivar without_loss: pieces dropped because none of their tokens contributes to the loss.
    """

    policy: Policy
    read: int = 0
    kept: int = 0
    too_long: int = 0
    without_loss: int = 0
    read_tokens: int = 0
    kept_tokens: int = 0

    @property
    def dropped_tokens(self) -> int:
        """Tokens that are in no row."""
        return self.read_tokens - self.kept_tokens

    def add(self, other: OverflowReport) -> None:
        """Add the counts of another part of the split."""
        self.read += other.read
        self.kept += other.kept
        self.too_long += other.too_long
        self.without_loss += other.without_loss
        self.read_tokens += other.read_tokens
        self.kept_tokens += other.kept_tokens

    def as_dict(self) -> dict[str, int | str]:
        """The counts for `index.json`."""
        return {**vars(self), "dropped_tokens": self.dropped_tokens}


def fit(examples: Iterable[EncodedExample], max_length: int, report: OverflowReport) -> Iterator[Sample]:
    """The samples of a split, none longer than a row; the report counts what is dropped."""
    for example in examples:
        report.read += 1
        report.read_tokens += len(example.tokens)
        report.too_long += len(example.tokens) > max_length
        pieces = list(_pieces(example, max_length, report.policy))
        trained = [piece for piece in pieces if piece.loss_mask.any()]
        report.without_loss += len(pieces) - len(trained)
        report.kept += bool(trained)
        report.kept_tokens += sum(len(piece.tokens) for piece in trained)
        yield from trained


def _pieces(example: EncodedExample, max_length: int, policy: Policy) -> Iterator[Sample]:
    length = len(example.tokens)
    if length > max_length and policy == "drop":
        return
    end = min(length, max_length) if policy == "truncate" else length
    for start in range(0, end, max_length):
        piece = slice(start, min(start + max_length, end))
        loss_mask = example.loss_mask[piece].copy()
        loss_mask[0] = 0  # No token precedes it in the row to predict it from.
        yield Sample(example.tokens[piece], loss_mask)
