"""A model's own greedy answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from airsmith_stages.evaluating.batches import longest_first

BATCH_PROMPTS = 32


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_token_id: int,
    batch_size: int = BATCH_PROMPTS,
) -> list[list[int]]:
    """Greedy continuations of prompts, each up to and including the token that ends the turn.

    :param batch_size: 1 where the ids must be those that a server computes alone.
    """
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(end_ids), pad_token_id=pad_token_id
    )
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in longest_first([len(prompt) for prompt in prompts], batch_size):
        width = max(len(prompts[index]) for index in batch)
        tokens = torch.full((len(batch), width), pad_token_id, dtype=torch.long)
        attention = torch.zeros_like(tokens)
        for line, index in enumerate(batch):
            tokens[line, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            attention[line, width - len(prompts[index]) :] = 1
        output = model.generate(
            input_ids=tokens.to(model.device), attention_mask=attention.to(model.device), generation_config=config
        )
        for line, index in enumerate(batch):
            answers[index] = _until_end(output[line, width:].tolist(), end_ids)
    return answers


def _until_end(tokens: list[int], end_ids: Sequence[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in end_ids:
            return tokens[: position + 1]
    return tokens
