"""A model's own greedy answers, as a server that is given the same model would give them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from airsmith_stages.evaluating.batches import longest_first

BATCH_PROMPTS = 64
BATCH_TOKENS = 32_768
"""Prompts and answers of a batch: what its key-value cache holds."""


@torch.inference_mode()
def generate_greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
    batch_prompts: int = BATCH_PROMPTS,
) -> list[list[int]]:
    """Greedy continuations, each up to and including the token at which the model's generation config stops.

    :param max_new_tokens: longest answer; a shorter one where the model's positions end.
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
    """Greedy continuations as they are where each prompt is alone in its batch, as on a server.

    :param batched: what the model answered in batches. One pass over prompt and answer shows whether it holds alone;
        where it does not, because rounding differs or a penalty plays a part, the prompt is answered again.
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
    """Indices in batches. A prompt that leaves too little room for an answer comes alone: it would cut the others'."""
    roomy = [index for index, length in enumerate(lengths) if length <= max_positions]
    for batch in longest_first([lengths[index] for index in roomy], max_rows, BATCH_TOKENS):
        yield [roomy[position] for position in batch]
    yield from ([index] for index, length in enumerate(lengths) if length > max_positions)


def _greedy(model: PreTrainedModel, max_new_tokens: int, pad_token_id: int) -> GenerationConfig:
    """The model's own generation config, without chance: servers keep its penalties and its end tokens as well."""
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
