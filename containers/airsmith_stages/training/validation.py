"""The loss on the rows that are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from airsmith_stages.training.rows import IGNORED_LABEL, Collator, RowDataset


def validation_loss(
    model: nn.Module, rows: RowDataset, collator: Collator, batch_size: int, should_stop: Callable[[], bool]
) -> float | None:
    """Mean loss per label, whatever the batches; None where it was told to stop before the end."""
    device = next(model.parameters()).device
    loss_sum, labels = 0.0, 0
    model.eval()
    with torch.no_grad():
        for indices in _longest_first(rows, batch_size):
            if should_stop():
                return None
            batch = {name: tensor.to(device) for name, tensor in collator([rows[index] for index in indices]).items()}
            # The first token of a row is predicted from nothing.
            count = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            if count:
                loss_sum += model(**batch).loss.item() * count
                labels += count
    return loss_sum / labels


def _longest_first(rows: RowDataset, batch_size: int) -> Iterator[list[int]]:
    """Batches of rows of like length; if memory is short, the first one shows it."""
    order = (-rows.lengths).argsort(kind="stable").tolist()
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
