"""What is trained on: the splits of a tokens artifact, checked against the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from airsmith.artifacts.read import Artifact
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.token_shards import INDEX_FILE, read_rows, shard_names
from airsmith_stages.training.rows import Collator, RowDataset


@dataclass(frozen=True)
class TrainingInputs:
    """Rows to train on, rows to validate on, and how they become batches.

    :param validation: None where the recipe does not validate while it trains.
    :param max_length: tokens of the longest row that the recipe allows.
    """

    train: RowDataset
    validation: RowDataset | None
    collator: Collator
    packing: str


def read_inputs(tokens: Artifact, local_dir: Path, *, with_validation: bool) -> TrainingInputs:
    """Copy a tokens artifact to the local disk, verified, and read it."""
    index = json.loads(tokens.read(INDEX_FILE))
    splits = ("train", "validation") if with_validation else ("train",)
    tokens.download(local_dir, [INDEX_FILE, *(name for split in splits for name in shard_names(index, split))])
    rows = {split: RowDataset(read_rows(local_dir, split)) for split in splits}
    collator = Collator(index["pad_token_id"], isolate_samples=index["packing"] == "isolated")
    return TrainingInputs(rows["train"], rows.get("validation"), collator, index["packing"])


def check_fit(inputs: TrainingInputs, model: PreTrainedModel) -> None:
    """Refuse rows that the model cannot take.

    :raises AirsmithError: `bad_data` for tokens that it does not know, `bad_recipe` for rows longer than its positions.
    """
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    vocabulary = embedding.shape[0]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, rows in (("train", inputs.train), ("validation", inputs.validation)):
        if rows is None:
            continue
        if rows.largest_token() >= vocabulary:
            raise AirsmithError(
                ErrorKind.BAD_DATA,
                f"The {name} split has token {rows.largest_token()}, but the model embeds only {vocabulary}: its "
                "tokenizer has tokens that its weights do not know.",
                "Choose a revision of model.id whose tokenizer and weights belong together.",
            )
        longest = rows.longest_sample() if inputs.packing == "isolated" else int(rows.lengths.max())
        if positions is not None and longest > positions:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"The {name} split has a row of {longest} tokens, but the model has only {positions} positions.",
                f"Lower dataset.max_length to {positions}.",
            )
