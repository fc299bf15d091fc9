"""Chunked cross-entropy: computes a causal model's output head and loss for a chunk of rows at a time.

The logits of a batch and their gradient are the largest tensors of a training with a large vocabulary. Here, they are
materialized for one chunk of rows at a time, and only for rows with a label. As in Liger (Hsu et al. 2024,
https://arxiv.org/abs/2410.10989, section 3.2), the gradient is computed together with the loss, chunk by chunk.
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
"""Logits per chunk: 32 MiB of float32."""

_PROBE_TOKENS = 4
_PROBE_TOLERANCE = 1e-3


def chunk_loss(model: PreTrainedModel) -> bool:
    """Make a model compute its loss in chunks; the `logits` of its output are then the last hidden states.

    The chunked loss of a few tokens is compared with the model's loss. If they differ, because the model transforms its
    logits further, the model keeps its own loss.

    :returns: whether the model now computes its loss in chunks.
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
    log.info("%s transforms its logits after the output head: using the model's own loss", type(model).__name__)
    return False


def _loss_with(head: nn.Linear) -> Any:
    def loss(
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Same as `transformers.loss.loss_utils.ForCausalLMLoss`, but with hidden states in place of the logits."""
        hidden = logits.flatten(0, -2)
        shifted = functional.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:].flatten().to(hidden.device)
        rows = (shifted != IGNORED_LABEL).nonzero().squeeze(1)
        total: torch.Tensor = _ChunkedLoss.apply(hidden, head.weight, rows, shifted[rows])  # type: ignore[no-untyped-call]
        count = len(rows) if num_items_in_batch is None else num_items_in_batch
        return total / count

    return loss


class _ChunkedLoss(torch.autograd.Function):
    """The sum of the cross-entropies of some rows, with gradients for all hidden states and the head's weight."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for chunk in range(0, len(rows), max(1, CHUNK_ELEMENTS // len(weight))):
            some = slice(chunk, chunk + max(1, CHUNK_ELEMENTS // len(weight)))
            states, chosen = hidden[rows[some]], labels[some].unsqueeze(1)
            logits = functional.linear(states, weight).float()
            log_sums = logits.logsumexp(1, keepdim=True)
            total += (log_sums - logits.gather(1, chosen)).sum()
            if grad_hidden is None:
                continue
            # Softmax minus 1 at the label, in place of the logits.
            grad_logits = logits.sub_(log_sums).exp_()
            grad_logits.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=grad_logits.dtype))
            grad_logits = grad_logits.to(states.dtype)
            grad_hidden[rows[some]] = (grad_logits @ weight.to(grad_logits.dtype)).to(grad_hidden.dtype)
            if grad_weight is not None:
                grad_weight += (grad_logits.T @ states).float()
        ctx.save_for_backward(*(each for each in (grad_hidden, grad_weight) if each is not None))
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        saved = [each * grad_total for each in ctx.saved_tensors]
        grad_weight = saved[1].to(ctx.weight_dtype) if len(saved) > 1 else None
        return (saved[0].to(ctx.saved_tensors[0].dtype) if saved else None, grad_weight, None, None)


def _probe(model: PreTrainedModel) -> float:
    """The model's loss on a few tokens."""
    device = next(model.parameters()).device
    was_training = model.training
    tokens = torch.arange(_PROBE_TOKENS, device=device).unsqueeze(0) % model.get_input_embeddings().weight.shape[0]
    model.eval()
    with torch.no_grad():
        loss = float(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
    model.train(was_training)
    return loss
