"""Rows of one length: every graph is compiled for a shape, and a batch of another shape would be another graph."""

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
    """Makes a batch of rows, each padded on the right to one length.

    Attention is causal and takes no account of the mask: what stands to the right of a row changes nothing of it.

    :param collator: makes the labels, as for every other device.
    :param length: tokens of every row.
    """

    collator: Collator
    length: int

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """The model's inputs: tokens, labels, and the mask that a pipeline's stages expect."""
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
    """Copy the rows to train on to the local disk, verified, and read them.

    :param length: tokens of every row once it is padded.
    :raises AirsmithError: `bad_data` where a row is longer.
    """
    index = json.loads(tokens.read(INDEX_FILE))
    tokens.download(local_dir, [INDEX_FILE, *shard_names(index, SPLIT)])
    rows = RowDataset(read_rows(local_dir, SPLIT))
    longest = int(rows.lengths.max())
    if longest > length:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"The {SPLIT} split has a row of {longest} tokens, but rows are compiled for dataset.max_length {length}.",
            "Clear tokenize, so that the rows are made anew.",
        )
    return rows, StaticCollator(Collator(index["pad_token_id"], isolate_samples=False), length)


def check_tokens(rows: RowDataset, vocabulary: int) -> None:
    """Refuse rows that the model cannot take: on the device, a token that it does not know is not noticed.

    :raises AirsmithError: `bad_data`.
    """
    if rows.largest_token() >= vocabulary:
        raise AirsmithError(
            ErrorKind.BAD_DATA,
            f"The {SPLIT} split has token {rows.largest_token()}, but the model embeds only {vocabulary}: its "
            "tokenizer has tokens that its weights do not know.",
            "Choose a revision of model.id whose tokenizer and weights belong together.",
        )


def label_count(rows: Dataset[Row], indices: list[int]) -> int:
    """Labels of some rows that the model is asked for: the first token of a row is predicted from nothing."""
    return sum(int(rows[index].loss_mask[1:].sum()) for index in indices)
