"""Examples longer than a row: dropped, cut off or cut up, and always counted."""

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
    """Tokens that fit into a row, and their loss mask."""

    tokens: NDArray[np.uint32]
    loss_mask: NDArray[np.uint8]


@dataclass
class OverflowReport:
    """What happened to a split's examples.

    :ivar dropped_tokens: tokens of whole examples, or of ends, that nobody will see.
    :ivar without_loss: pieces dropped because nothing in them is learnt.
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
        """Tokens that nobody will see."""
        return self.read_tokens - self.kept_tokens

    def add(self, other: OverflowReport) -> None:
        """Count what another part of the split's examples has met with."""
        self.read += other.read
        self.kept += other.kept
        self.too_long += other.too_long
        self.without_loss += other.without_loss
        self.read_tokens += other.read_tokens
        self.kept_tokens += other.kept_tokens

    def as_dict(self) -> dict[str, int | str]:
        """The figures for `index.json`."""
        return {**vars(self), "dropped_tokens": self.dropped_tokens}


def fit(examples: Iterable[EncodedExample], max_length: int, report: OverflowReport) -> Iterator[Sample]:
    """The samples of a split, none longer than a row; what is lost is counted in the report."""
    for example in examples:
        report.read += 1
        report.read_tokens += len(example.tokens)
        report.too_long += len(example.tokens) > max_length
        pieces = list(_pieces(example, max_length, report.policy))
        learnt = [piece for piece in pieces if piece.loss_mask.any()]
        report.without_loss += len(pieces) - len(learnt)
        report.kept += bool(learnt)
        report.kept_tokens += sum(len(piece.tokens) for piece in learnt)
        yield from learnt


def _pieces(example: EncodedExample, max_length: int, policy: Policy) -> Iterator[Sample]:
    length = len(example.tokens)
    if length > max_length and policy == "drop":
        return
    end = min(length, max_length) if policy == "truncate" else length
    for start in range(0, end, max_length):
        piece = slice(start, min(start + max_length, end))
        loss_mask = example.loss_mask[piece].copy()
        loss_mask[0] = 0  # Nothing stands before it in the row that it could be predicted from.
        yield Sample(example.tokens[piece], loss_mask)
