"""A dense decoder as described by its `config.json`: the shapes of its layers and its number of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind


@dataclass(frozen=True)
class Family:
    """Properties of a `model_type` that differ between dense decoders.

    :param norms: norms per layer.
    :param has_head_norms: whether queries and keys are normalized per head.
    :param has_qkv_bias: whether their projections always have a bias.
    :param ties_embeddings: default of `tie_word_embeddings`.
    :param head_dim: default of `head_dim`; None means hidden size / heads.
    """

    norms: int = 2
    has_head_norms: bool = False
    has_qkv_bias: bool = False
    ties_embeddings: bool = False
    head_dim: int | None = None


FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(has_qkv_bias=True),
    "qwen3": Family(has_head_norms=True, head_dim=128),
    "granite": Family(),
    "gemma": Family(ties_embeddings=True, head_dim=256),
    "gemma3_text": Family(norms=4, has_head_norms=True, ties_embeddings=True, head_dim=256),
}
"""The supported model types, with the defaults of their classes in transformers."""


@dataclass(frozen=True)
class Linear:
    """A linear layer.

    :param name: its full name, which LoRA's patterns match.
    """

    name: str
    in_features: int
    out_features: int

    @property
    def weights(self) -> int:
        """Elements of its matrix."""
        return self.in_features * self.out_features


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder, named as in its config.

    :param model_type: its family.
    :param dtype: data type of the checkpoint.
    """

    model_type: str
    dtype: str
    family: Family
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool

    @property
    def query_width(self) -> int:
        """Elements of a token's queries."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Elements of a token's keys, and also of its values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output head if it is not tied."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters, each counted once."""
        embeddings = self.embedding * (1 if self.tie_word_embeddings else 2)
        matrices = sum(linear.weights for linear in self.linears())
        return embeddings + matrices + self.num_hidden_layers * self._vectors_per_layer() + self.hidden_size

    def linears(self) -> Iterator[Linear]:
        """The linear layers of all blocks: LoRA's `all-linear`."""
        hidden, inner, query, key = self.hidden_size, self.intermediate_size, self.query_width, self.key_width
        shapes = {
            "self_attn.q_proj": (hidden, query),
            "self_attn.k_proj": (hidden, key),
            "self_attn.v_proj": (hidden, key),
            "self_attn.o_proj": (query, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }
        for layer in range(self.num_hidden_layers):
            for name, (in_features, out_features) in shapes.items():
                yield Linear(f"model.layers.{layer}.{name}", in_features, out_features)

    def _vectors_per_layer(self) -> int:
        """Parameters of a block's norms and biases."""
        norms = self.family.norms * self.hidden_size + (2 * self.head_dim if self.family.has_head_norms else 0)
        qkv = self.query_width + 2 * self.key_width
        biases = (qkv if self.family.has_qkv_bias else 0) + (qkv + self.hidden_size if self.attention_bias else 0)
        return norms + biases + (2 * self.intermediate_size + self.hidden_size if self.mlp_bias else 0)


def read_decoder(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a `config.json` describes.

    :raises AirsmithError: `bad_data` if it is not a dense decoder of a supported family.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise _unreadable(f"has model_type {model_type!r}", f"Supported types are {', '.join(FAMILIES)}.")
    if config.get("quantization_config"):
        raise _unreadable("describes quantized weights", "Start from the model's unquantized weights.")
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Decoder(
            model_type=str(model_type),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            family=family,
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or family.head_dim or hidden // heads),
            vocab_size=int(config["vocab_size"]),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", family.ties_embeddings)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _unreadable(f"has a missing or invalid size ({error})", "Check the model's repository.") from error


def _unreadable(what: str, hint: str) -> AirsmithError:
    return AirsmithError(ErrorKind.BAD_DATA, f"The model's config.json {what}.", hint)
