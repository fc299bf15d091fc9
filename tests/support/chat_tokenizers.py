"""Tokenizers like those of common models, and chat templates for them."""

from __future__ import annotations

import re

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from demo.tiny_llama import CHAT_TEMPLATE, train_tokenizer

CHATML = CHAT_TEMPLATE.read_text(encoding="utf-8")
CHATML_UNMARKED = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}\n?", "", CHATML)
"""The same without generation markers, so that the loss mask is derived from the text."""

PLAIN = (
    "{{- bos_token -}}{%- for m in messages -%}"
    "{{- m['role'] + ': ' + m['content'] + (eos_token if m['role'] == 'assistant' else '') + '\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"
)
"""A template without a special token between prompt and answer, so that a merge can span both."""

TEXTS = (
    "user",
    "assistant",
    "system",
    "assistant: yes",
    "assistant: no",
    "The kettle is cold. ",
    '{"team": "billing"}',
)


def chatml_tokenizer() -> PreTrainedTokenizerBase:
    """Make the demo's tokenizer: no BOS, and <|im_end|> as EOS."""
    return train_tokenizer(TEXTS)


def message_start_is_bos_tokenizer() -> PreTrainedTokenizerBase:
    """Make a tokenizer like SmolLM2's, whose BOS starts every message."""
    tokenizer = train_tokenizer(TEXTS)
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer


def bos_adding_tokenizer() -> PreTrainedTokenizerBase:
    """Make a tokenizer like Llama's, which adds a BOS to every text."""
    tokenizer = train_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer
