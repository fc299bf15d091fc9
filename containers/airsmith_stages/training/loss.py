"""Cross-entropy without the logits: a causal model's output head and loss, some rows at a time.

The logits of a batch and their gradient are the largest tensors of a training with a large vocabulary. Here they exist
for one chunk of rows only, and not at all where there is no label. As in Liger (Hsu et al. 2024,
https://arxiv.org/abs/2410.10989, section 3.2) the gradient is computed with the loss, chunk by chunk.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from airsmith_stages.training.rows import IGNORED_LABEL

log = logging.getLogger("airsmith")

CHUNK_ELEMENTS = 2**23
"""Logits at once: 32 MiB of float32."""

_PROBE_TOKENS = 4
_PROBE_TOLERANCE = 1e-3


def chunk_loss(model: PreTrainedModel) -> bool:
    """Let a model compute its loss chunk by chunk; its output's `logits` are then the last hidden states.

    Held against the model's own loss of a few tokens: whatever else a model does to its logits, it then keeps its own.

    :returns: whether it does so now.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    own = _probe(model)
    head_forward, loss_function = head.forward, model.loss_function
    head.forward = lambda hidden: hidden  # type: ignore[method-assign]
    model.loss_function = _loss_with(head)
    if abs(_probe(model) - own) <= _PROBE_TOLERANCE * max(abs(own), 1.0):
        return True
    head.forward, model.loss_function = head_forward, loss_function  # type: ignore[method-assign]
    log.info("%s changes its logits after the output head: its own loss is used", type(model).__name__)
    return False


def _loss_with(head: nn.Linear) -> Any:
    def loss(
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As `transformers.loss.loss_utils.ForCausalLMLoss`, of hidden states in the logits' place."""
        hidden = logits.flatten(0, -2)
        shifted = functional.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:].flatten().to(hidden.device)
        rows = (shifted != IGNORED_LABEL).nonzero().squeeze(1)
        total: torch.Tensor = _ChunkedLoss.apply(hidden, head.weight, rows, shifted[rows])  # type: ignore[no-untyped-call]
        count = len(rows) if num_items_in_batch is None else num_items_in_batch
        return total / count

    return loss


class _ChunkedLoss(torch.autograd.Function):
    """The sum of the cross-entropies of some rows, with its gradients for all rows and for the head's weight."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        by_hidden = torch.zeros_like(hidden) if wants_hidden else None
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for chunk in range(0, len(rows), max(1, CHUNK_ELEMENTS // len(weight))):
            some = slice(chunk, chunk + max(1, CHUNK_ELEMENTS // len(weight)))
            states, chosen = hidden[rows[some]], labels[some].unsqueeze(1)
            logits = functional.linear(states, weight).float()
            log_sums = logits.logsumexp(1, keepdim=True)
            total += (log_sums - logits.gather(1, chosen)).sum()
            if by_hidden is None:
                continue
            # The softmax less 1 at the label, in place of the logits.
            by_logits = logits.sub_(log_sums).exp_()
            by_logits.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=by_logits.dtype))
            by_logits = by_logits.to(states.dtype)
            by_hidden[rows[some]] = (by_logits @ weight.to(by_logits.dtype)).to(by_hidden.dtype)
            if by_weight is not None:
                by_weight += (by_logits.T @ states).float()
        ctx.save_for_backward(*(each for each in (by_hidden, by_weight) if each is not None))
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, by_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        saved = [each * by_total for each in ctx.saved_tensors]
        by_weight = saved[1].to(ctx.weight_dtype) if len(saved) > 1 else None
        return (saved[0].to(ctx.saved_tensors[0].dtype) if saved else None, by_weight, None, None)


def _probe(model: PreTrainedModel) -> float:
    """The model's loss of a few tokens."""
    device = next(model.parameters()).device
    was_training = model.training
    tokens = torch.arange(_PROBE_TOKENS, device=device).unsqueeze(0) % model.get_input_embeddings().weight.shape[0]
    model.eval()
    with torch.no_grad():
        loss = float(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
    model.train(was_training)
    return loss
