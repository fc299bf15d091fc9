"""The inputs of a training: the splits of a tokens artifact, checked against the model."""

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
    """Rows for training and validation, and the collator that makes batches of them.

    :param validation: None if the recipe has no validation during training.
    :param packing: the recipe's packing: `isolated` if the samples of a row must not attend to each other.
    """

    train: RowDataset
    validation: RowDataset | None
    collator: Collator
    packing: str


def read_inputs(tokens: Artifact, local_dir: Path, *, with_validation: bool) -> TrainingInputs:
    """Download, verify and read a tokens artifact."""
    index = json.loads(tokens.read(INDEX_FILE))
    splits = ("train", "validation") if with_validation else ("train",)
    tokens.download(local_dir, [INDEX_FILE, *(name for split in splits for name in shard_names(index, split))])
    rows = {split: RowDataset(read_rows(local_dir, split)) for split in splits}
    collator = Collator(index["pad_token_id"], isolate_samples=index["packing"] == "isolated")
    return TrainingInputs(rows["train"], rows.get("validation"), collator, index["packing"])


def check_compatible(inputs: TrainingInputs, model: PreTrainedModel) -> None:
    """Check that the model supports all tokens and row lengths.

    :raises AirsmithError: `bad_data` for tokens outside its vocabulary, `bad_recipe` for rows that are too long.
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
                f"The {name} split contains token {rows.largest_token()}, but the model has only {vocabulary} "
                "embeddings: its tokenizer does not match its weights.",
                "Choose a revision of model.id whose tokenizer matches its weights.",
            )
        longest = rows.longest_sample() if inputs.packing == "isolated" else int(rows.lengths.max())
        if positions is not None and longest > positions:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"The {name} split has a row of {longest} tokens, but the model supports only {positions} positions.",
                f"Lower dataset.max_length to {positions}.",
            )
