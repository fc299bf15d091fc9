"""The loss on the validation split."""

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
    """Mean loss per label, independent of batches and ranks; None if `should_stop` has stopped it early.

    :param should_stop: must return the same value on all ranks.
    """
    device = next(model.parameters()).device
    loss_sum, labels = 0.0, 0
    model.eval()
    # Rows of similar length share a batch; if memory is insufficient, the first batch fails.
    longest_first = (-rows.lengths).argsort(kind="stable").tolist()
    with torch.no_grad():
        for indices in batches_of_rank(longest_first, batch_size, distributed.rank, distributed.world_size):
            if should_stop():
                return None
            batch = {name: tensor.to(device) for name, tensor in collator([rows[index] for index in indices]).items()}
            # The first token of a row is not predicted.
            count = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            loss = model(**batch).loss.item()
            if count:
                loss_sum += loss * count
                labels += count
    return distributed.sum(loss_sum) / distributed.sum(labels)
