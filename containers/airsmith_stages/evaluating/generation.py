"""Generate a model's greedy answers, as a server of the same model would."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from airsmith_stages.evaluating.batches import longest_first

BATCH_PROMPTS = 64
BATCH_TOKENS = 32_768
"""Tokens of prompts and answers in a batch, which its key-value cache must hold."""


@torch.inference_mode()
def generate_greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
    batch_prompts: int = BATCH_PROMPTS,
) -> list[list[int]]:
    """Greedy continuations, each up to and including an end token of the model's generation config.

    :param max_new_tokens: maximum length of an answer, which the model's maximum position may reduce.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    max_positions = _max_positions(model)
    for batch in _batches([len(prompt) + max_new_tokens for prompt in prompts], max_positions, batch_prompts):
        width = max(len(prompts[index]) for index in batch)
        room = min(max_new_tokens, max_positions - width)
        if room < 1:
            continue
        tokens = torch.full((len(batch), width), pad_token_id, dtype=torch.long)
        attention = torch.zeros_like(tokens)
        for line, index in enumerate(batch):
            tokens[line, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            attention[line, width - len(prompts[index]) :] = 1
        config = _greedy(model, room, pad_token_id)
        output = model.generate(
            input_ids=tokens.to(model.device), attention_mask=attention.to(model.device), generation_config=config
        )
        for line, index in enumerate(batch):
            answers[index] = _until_end(output[line, width:].tolist(), _stops(config))
    return answers


def generate_unbatched(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    batched: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
) -> list[list[int]]:
    """Greedy continuations of each prompt in a batch of its own, as on a server.

    :param batched: answers from larger batches. One forward pass over prompt and answer shows whether an answer is the
        same without batching; if not, because of rounding or a penalty, it is generated again.
    """
    shortened = [list(tokens[:max_new_tokens]) for tokens in batched]
    return [
        tokens
        if _is_greedy(model, prompt, tokens)
        else generate_greedy(model, [prompt], max_new_tokens=max_new_tokens, pad_token_id=pad_token_id)[0]
        for prompt, tokens in zip(prompts, shortened, strict=True)
    ]


@torch.inference_mode()
def _is_greedy(model: PreTrainedModel, prompt: Sequence[int], answered: Sequence[int]) -> bool:
    if not answered:
        return False
    tokens = torch.tensor([[*prompt, *answered[:-1]]], device=model.device)
    best = model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 :].argmax(-1)
    return bool(best.tolist() == list(answered))


def _batches(lengths: Sequence[int], max_positions: int, max_rows: int) -> Iterator[list[int]]:
    """Batches of indices. A prompt with too little room for an answer has its own batch, not to limit the others."""
    fitting = [index for index, length in enumerate(lengths) if length <= max_positions]
    for batch in longest_first([lengths[index] for index in fitting], max_rows, BATCH_TOKENS):
        yield [fitting[position] for position in batch]
    yield from ([index] for index, length in enumerate(lengths) if length > max_positions)


def _greedy(model: PreTrainedModel, max_new_tokens: int, pad_token_id: int) -> GenerationConfig:
    """The model's generation config without sampling; its penalties and end tokens stay, as on servers."""
    config = copy.deepcopy(model.generation_config)
    config.update(
        do_sample=False, temperature=None, top_k=None, top_p=None, min_p=None, num_beams=1,
        max_new_tokens=max_new_tokens, max_length=None, pad_token_id=pad_token_id,
    )  # fmt: skip
    return config


def _max_positions(model: PreTrainedModel) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31)


def _stops(config: GenerationConfig) -> list[int]:
    stops = config.eos_token_id
    return [] if stops is None else list(stops) if isinstance(stops, list) else [stops]


def _until_end(tokens: list[int], stops: Sequence[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in stops:
            return tokens[: position + 1]
    return tokens
