"""The sizes of a model that a backend checks before training."""

from __future__ import annotations

from typing import Protocol


class ModelSizes(Protocol):
    """Sizes of a decoder, with the names of its config."""

    @property
    def model_type(self) -> str:
        """Architecture family."""

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder blocks."""

    @property
    def num_attention_heads(self) -> int:
        """Number of query heads."""

    @property
    def num_key_value_heads(self) -> int:
        """Number of key and value heads."""

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""

    @property
    def attention_bias(self) -> bool:
        """Whether the attention projections have a bias."""

    @property
    def mlp_bias(self) -> bool:
        """Whether the MLP projections have a bias."""
