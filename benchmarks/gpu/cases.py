"""The trainings to compare: models with random weights, and rows of random tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WARM_UPS, STEPS, PARITY_STEPS = 8, 30, 32


@dataclass(frozen=True)
class Case:
    """One training.

    :param length: tokens per row.
    :param batch: rows per step.
    :param shortest: tokens of the shortest sample, if samples are packed or padded to rows; 0 if each row is full.
    """

    name: str
    model: str
    method: str
    length: int
    batch: int
    checkpointing: bool = False
    shortest: int = 0
    packed: bool = False


MODELS: dict[str, dict[str, Any]] = {
    # The dimensions of Llama 3.1 8B.
    "8b": {
        "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "1b": {
        "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip

CASES = (
    Case("lora 8b 4096", "8b", "lora", 4096, 2),
    Case("lora 8b 8192 checkpointing", "8b", "lora", 8192, 1, checkpointing=True),
    Case("lora 8b padded", "8b", "lora", 4096, 4, shortest=64),
    Case("lora 8b packed", "8b", "lora", 4096, 4, shortest=64, packed=True),
    Case("full 1b 4096", "1b", "full", 4096, 2),
)
TINY = (
    Case("lora tiny", "tiny", "lora", 64, 2),
    Case("lora tiny packed", "tiny", "lora", 64, 2, shortest=8, packed=True),
    Case("full tiny", "tiny", "full", 64, 2, checkpointing=True),
)
COMPARED = ("lora 8b 4096", "lora tiny")
"""The cases that the peers train as well."""
PEERS = ("transformers", "trl")
