"""The loss on the rows that are held out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from airsmith_stages.training.distributed import SINGLE_PROCESS, DistributedContext
from airsmith_stages.training.rows import IGNORED_LABEL, Collator, RowDataset
from airsmith_stages.training.sampler import batches_of_rank


def validation_loss(
    model: nn.Module,
    rows: RowDataset,
    collator: Collator,
    batch_size: int,
    should_stop: Callable[[], bool],
    distributed: DistributedContext = SINGLE_PROCESS,
) -> float | None:
    """Mean loss per label, whatever the batches and whoever takes them; None where it was told to stop before the end.

    :param should_stop: must say the same in every process.
    """
    device = next(model.parameters()).device
    loss_sum, labels = 0.0, 0
    model.eval()
    # Rows of like length share a batch; if memory is short, the first one shows it.
    longest_first = (-rows.lengths).argsort(kind="stable").tolist()
    with torch.no_grad():
        for indices in batches_of_rank(longest_first, batch_size, distributed.rank, distributed.world_size):
            if should_stop():
                return None
            batch = {name: tensor.to(device) for name, tensor in collator([rows[index] for index in indices]).items()}
            # The first token of a row is predicted from nothing.
            count = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            loss = model(**batch).loss.item()
            if count:
                loss_sum += loss * count
                labels += count
    return distributed.sum(loss_sum) / distributed.sum(labels)
