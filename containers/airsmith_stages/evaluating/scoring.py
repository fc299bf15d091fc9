"""Loss and accuracy of a model over rows of tokens, weighted by token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.data.token_shards import TokenRows
from airsmith_stages.evaluating.batches import longest_first

BATCH_ROWS = 64
BATCH_LOGITS = 64 * 1024 * 1024
"""Logits of a batch, 256 MiB in float32: with a large vocabulary they dominate the memory, not the weights."""


@dataclass(frozen=True)
class Score:
    """Means over all tokens in the loss mask.

    :param loss: cross-entropy, in nats.
    :param token_accuracy: fraction of tokens that the model ranks first.
    """

    loss: float
    token_accuracy: float


@torch.inference_mode()
def score(model: PreTrainedModel, rows: TokenRows, pad_token_id: int, max_rows: int | None) -> Score:
    """Score a model on the first rows of a split.

    :raises AirsmithError: `non_finite_loss`.
    """
    count = len(rows) if max_rows is None else min(max_rows, len(rows))
    lengths = np.diff(rows.offsets)[:count].tolist()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    loss_sum, correct, count_scored = 0.0, 0, 0
    for batch in longest_first(lengths, BATCH_ROWS, BATCH_LOGITS // vocabulary):
        tokens, attention, mask = (part.to(model.device) for part in _padded(rows, batch, pad_token_id))
        logits = model(input_ids=tokens, attention_mask=attention, use_cache=False).logits
        scored = mask[:, 1:].bool()
        predicted, labels = logits[:, :-1][scored].float(), tokens[:, 1:][scored]
        loss_sum += cross_entropy(predicted, labels, reduction="sum").item()
        correct += int((predicted.argmax(-1) == labels).sum())
        count_scored += len(labels)
    if not math.isfinite(loss_sum):
        raise AirsmithError(
            ErrorKind.NON_FINITE_LOSS,
            f"The loss on the validation split is {loss_sum}.",
            "Train again with a lower learning rate, or set model.dtype to 'float32'.",
        )
    return Score(loss=loss_sum / count_scored, token_accuracy=correct / count_scored)


def _padded(rows: TokenRows, batch: list[int], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch's tokens, attention mask and loss mask, int64, padded on the right."""
    spans = [(int(rows.offsets[row]), int(rows.offsets[row + 1])) for row in batch]
    width = max(end - start for start, end in spans)
    tokens = np.full((len(batch), width), pad_token_id, dtype=np.int64)
    attention, mask = np.zeros_like(tokens), np.zeros_like(tokens)
    for line, (start, end) in enumerate(spans):
        tokens[line, : end - start] = rows.tokens[start:end]
        attention[line, : end - start] = 1
        mask[line, : end - start] = rows.loss_mask[start:end]
    return torch.from_numpy(tokens), torch.from_numpy(attention), torch.from_numpy(mask)
