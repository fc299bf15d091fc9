"""Loss and accuracy of a model over rows of tokens, each learnt token counting once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from airsmith_stages.data.token_shards import TokenRows
from airsmith_stages.evaluating.batches import longest_first

BATCH_ROWS = 16


@dataclass(frozen=True)
class Score:
    """Means over all learnt tokens.

    :param loss: cross-entropy, in nats.
    :param token_accuracy: share of tokens that the model ranks first.
    """

    loss: float
    token_accuracy: float


@torch.inference_mode()
def score(model: PreTrainedModel, rows: TokenRows, pad_token_id: int, most_rows: int | None) -> Score:
    """Score a model on rows, the longest first, so that memory that does not suffice is noticed at once."""
    count = len(rows) if most_rows is None else min(most_rows, len(rows))
    lengths = np.diff(rows.offsets)[:count]
    loss_sum, right, learnt = 0.0, 0, 0
    for batch in longest_first(lengths.tolist(), BATCH_ROWS):
        tokens, mask = _padded(rows, batch, pad_token_id)
        tokens, mask = tokens.to(model.device), mask.to(model.device)
        attention = torch.arange(tokens.shape[1], device=model.device)[None, :] < torch.tensor(
            lengths[batch], device=model.device
        ).unsqueeze(1)
        logits = model(input_ids=tokens, attention_mask=attention.long(), use_cache=False).logits[:, :-1].float()
        labels, chosen = tokens[:, 1:], mask[:, 1:].bool()
        loss_sum += float(cross_entropy(logits[chosen], labels[chosen], reduction="sum").double())
        right += int((logits.argmax(-1)[chosen] == labels[chosen]).sum())
        learnt += int(chosen.sum())
    return Score(loss=loss_sum / learnt, token_accuracy=right / learnt)


def _padded(rows: TokenRows, batch: list[int], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch's tokens and loss mask, int64, padded on the right."""
    spans = [(int(rows.offsets[row]), int(rows.offsets[row + 1])) for row in batch]
    width = max(end - start for start, end in spans)
    tokens = np.full((len(batch), width), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(batch), width), dtype=np.int64)
    for line, (start, end) in enumerate(spans):
        tokens[line, : end - start] = rows.tokens[start:end]
        mask[line, : end - start] = rows.loss_mask[start:end]
    return torch.from_numpy(tokens), torch.from_numpy(mask)
