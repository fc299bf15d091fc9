"""Rows of tokens and batches of them: padding is excluded from the loss and from attention."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from airsmith_stages.data.token_shards import TokenRows

IGNORED_LABEL = -100
"""The label that torch's cross-entropy ignores."""


class Row(NamedTuple):
    """One row: tokens, a mask of the tokens that are labels, and the start of each sample."""

    tokens: NDArray[np.uint32]
    loss_mask: NDArray[np.uint8]
    sample_starts: NDArray[np.int64]


class RowDataset(Dataset[Row]):
    """The rows of a split.

    :ivar lengths: tokens per row.
    """

    def __init__(self, rows: TokenRows) -> None:
        self._rows = rows
        self._first_samples = np.searchsorted(rows.sample_offsets, rows.offsets)
        self.lengths: NDArray[np.int64] = np.diff(rows.offsets)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        rows = self._rows
        begin, end = rows.offsets[index : index + 2]
        first, last = self._first_samples[index : index + 2]
        return Row(rows.tokens[begin:end], rows.loss_mask[begin:end], rows.sample_offsets[first:last] - begin)

    def longest_sample(self) -> int:
        """Tokens of the longest sample."""
        return int(np.diff(self._rows.sample_offsets).max())

    def sample_lengths(self) -> NDArray[np.int64]:
        """Tokens per sample."""
        return np.diff(self._rows.sample_offsets)

    def largest_token(self) -> int:
        """The largest token id."""
        return int(self._rows.tokens.max())


@dataclass(frozen=True)
class Collator:
    """Collates rows into a batch, padded on the right to the longest row.

    :param pad_token_id: token for padding; any token works.
    :param isolate_samples: whether the samples of a row must not attend to each other.
    """

    pad_token_id: int
    isolate_samples: bool

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """The model's inputs: tokens, labels, and an attention mask or positions that restart.

        An empty list yields a batch of padding only: a rank may have no rows in a step.
        """
        rows = rows or [Row(np.array([self.pad_token_id], np.uint32), np.zeros(1, np.uint8), np.zeros(1, np.int64))]
        shape = (len(rows), max(len(row.tokens) for row in rows))
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
        for index, row in enumerate(rows):
            size = len(row.tokens)
            input_ids[index, :size] = row.tokens
            labeled = np.flatnonzero(row.loss_mask)
            labels[index, labeled] = row.tokens[labeled]
            if self.isolate_samples:
                # The token before a sample's first token belongs to another sample.
                labels[index, row.sample_starts] = IGNORED_LABEL
        batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        if self.isolate_samples:
            return {**batch, "position_ids": _restarting_positions(rows, shape)}
        if any(len(row.tokens) < shape[1] for row in rows):
            return {**batch, "attention_mask": _attention_mask(rows, shape)}
        return batch


def _restarting_positions(rows: list[Row], shape: tuple[int, int]) -> torch.Tensor:
    """Positions that restart at 0 with every sample; the padding counts as a sample.

    transformers separates the samples of a row by these positions, but only without an attention mask and without a
    cache (`transformers.masking_utils.find_packed_sequence_indices`).
    """
    positions = np.empty(shape, dtype=np.int64)
    for index, row in enumerate(rows):
        starts = [*row.sample_starts, len(row.tokens), shape[1]]
        for start, end in pairwise(starts):
            positions[index, start:end] = np.arange(end - start)
    return torch.from_numpy(positions)


def _attention_mask(rows: list[Row], shape: tuple[int, int]) -> torch.Tensor:
    mask = np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(rows):
        mask[index, : len(row.tokens)] = 1
    return torch.from_numpy(mask)
