"""Rows of equal length: a graph is compiled for one shape, and a batch of another shape requires another graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import Dataset

from airsmith.artifacts.read import Artifact
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.token_shards import INDEX_FILE, read_rows, shard_names
from airsmith_stages.training.rows import IGNORED_LABEL, Collator, Row, RowDataset

SPLIT = "train"


@dataclass(frozen=True)
class StaticCollator:
    """Collates rows into a batch, padded on the right to a fixed length.

    Attention is causal and ignores the mask: padding on the right does not affect a row.

    :param collator: the collator of the other devices, which makes the labels.
    :param length: tokens of every row.
    """

    collator: Collator
    length: int

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """The model's inputs: tokens, labels, and the mask that pipeline stages require."""
        batch = self.collator(rows)
        tokens = batch["input_ids"]
        mask = batch.get("attention_mask", torch.ones_like(tokens))
        room = (0, self.length - tokens.shape[1])
        return {
            "input_ids": functional.pad(tokens, room, value=self.collator.pad_token_id),
            "attention_mask": functional.pad(mask, room),
            "labels": functional.pad(batch["labels"], room, value=IGNORED_LABEL),
        }


def read_training_rows(tokens: Artifact, local_dir: Path, length: int) -> tuple[RowDataset, StaticCollator]:
    """Download, verify and read the rows to train on.

    :param length: tokens of every row after padding.
    :raises AirsmithError: `bad_data` if a row is longer.
    """
    index = json.loads(tokens.read(INDEX_FILE))
    tokens.download(local_dir, [INDEX_FILE, *shard_names(index, SPLIT)])
    rows = RowDataset(read_rows(local_dir, SPLIT))
    longest = int(rows.lengths.max())
    if longest > length:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"The {SPLIT} split has a row of {longest} tokens, but the graphs are compiled for {length} tokens.",
            "Clear tokenize to make the rows again with the current dataset.max_length.",
        )
    return rows, StaticCollator(Collator(index["pad_token_id"], isolate_samples=False), length)


def check_tokens(rows: RowDataset, vocabulary: int) -> None:
    """Check that all tokens are in the vocabulary: the device does not report tokens outside of it.

    :raises AirsmithError: `bad_data`.
    """
    if rows.largest_token() >= vocabulary:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"The {SPLIT} split contains token {rows.largest_token()}, but the model has only {vocabulary} embeddings: "
            "its tokenizer does not match its weights.",
            "Choose a revision of model.id whose tokenizer matches its weights.",
        )


def label_count(rows: Dataset[Row], indices: list[int]) -> int:
    """Number of labels of some rows. The first token of a row is not predicted and does not count."""
    return sum(int(rows[index].loss_mask[1:].sum()) for index in indices)
