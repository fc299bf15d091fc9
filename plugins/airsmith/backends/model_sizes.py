"""What a backend asks of a model before it trains it."""

from __future__ import annotations

from typing import Protocol


class ModelSizes(Protocol):
    """A decoder's sizes, in the words of its config."""

    @property
    def model_type(self) -> str:
        """Its family."""

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""

    @property
    def num_hidden_layers(self) -> int:
        """Blocks."""

    @property
    def num_attention_heads(self) -> int:
        """Heads of queries."""

    @property
    def num_key_value_heads(self) -> int:
        """Heads of keys and values."""

    @property
    def vocab_size(self) -> int:
        """Tokens that it knows."""

    @property
    def attention_bias(self) -> bool:
        """Whether the attention's projections add a bias."""

    @property
    def mlp_bias(self) -> bool:
        """Whether the MLP's projections do."""
