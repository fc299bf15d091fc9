"""Estimates a training's memory on each device from the model's shapes and the recipe.

Every device holds the whole model, except in full-parameter training on several devices: there, each holds its shard of
weights, gradients and moments, plus the gathered weights of one block and the embeddings. The parts, in bytes:

- weights: frozen weights in the data type in which they are loaded (float32 if the recipe computes in float32), trained
  weights in float32. A 4-bit base takes 4.127 bits per weight of its linear layers: NF4 with double quantization
  (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3).
- gradients: 4 per trained parameter. AdamW's two moments: 8 per trained parameter.
- casts: autocast keeps a 2-byte copy of each float32 matrix during a forward and backward pass.
- activations: the tensors that each token and block keep for the backward pass, counted as in Korthikanti et al. (2022,
  https://arxiv.org/abs/2205.05198, section 4), here for RMSNorm, grouped-query attention, a gated MLP and an attention
  kernel that stores no scores. A test compares the count with real models. With gradient checkpointing, only the
  blocks' inputs are kept, and the full activations of one block at a time.
- logits: over the whole vocabulary, with the loss's float32 log-probabilities and two gradients of that size.

`OVERHEAD` covers what the estimate omits: the driver's memory and fragmentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airsmith.contracts.spec import BatchPlan
from airsmith.contracts.stages import has_sharded_output
from airsmith.pipeline.decoder import Decoder, Linear
from airsmith.recipe import Recipe
from airsmith.recipe.training import Method

GIBIBYTE = 1024**3
OVERHEAD = 0.08
"""Fraction added for the driver, the kernels' workspace and memory fragmentation."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NF4_BYTES = 4.127 / 8
_TRAINED_BYTES = 4
_ADAMW_BYTES = 8


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each device.

    :param parameters: number of the model's parameters.
    :param trained: number of trained parameters.
    """

    parameters: int
    trained: int
    weights: float
    gradients: float
    optimizer: float
    casts: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """The sum, including overhead."""
        parts = self.weights + self.gradients + self.optimizer + self.casts + self.activations + self.logits
        return parts * (1 + OVERHEAD)


def estimate_memory(decoder: Decoder, recipe: Recipe, batch: BatchPlan) -> MemoryEstimate:
    """Memory for training a model by a recipe, with rows of `dataset.max_length` tokens."""
    method = recipe.method
    is_full = method.name == "full"
    trained = trained_parameters(decoder, method)
    frozen_bytes = 0.0 if is_full else _frozen_bytes(decoder, recipe)
    tokens = batch.per_device_train_batch_size * recipe.dataset.max_length
    is_sharded = has_sharded_output(recipe)
    held = trained / batch.data_parallel_size if is_sharded else trained
    return MemoryEstimate(
        parameters=decoder.parameters,
        trained=trained,
        weights=frozen_bytes + _TRAINED_BYTES * held + (_gathered_bytes(decoder, recipe) if is_sharded else 0),
        gradients=_TRAINED_BYTES * held,
        optimizer=_ADAMW_BYTES * held,
        casts=0 if is_sharded else _cast_bytes(decoder, recipe),
        activations=tokens * _kept_bytes_per_token(decoder, recipe),
        logits=tokens * decoder.vocab_size * (12 + _BYTES[recipe.training.precision]),
    )


def trained_parameters(decoder: Decoder, method: Method) -> int:
    """Parameters that a method trains, as PEFT counts them."""
    return decoder.parameters if method.name == "full" else _adapter_parameters(decoder, method)


def block_bytes_per_token(decoder: Decoder, recipe: Recipe) -> float:
    """Bytes that one token and one block keep for the backward pass."""
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    queries, keys = decoder.query_width, decoder.key_width
    norms = decoder.family.norms
    head_norms = queries + keys if decoder.family.has_head_norms else 0
    is_exact = recipe.training.precision == "float32"
    if recipe.method.name == "full":
        if is_exact:  # A norm's input, its normalized input and its output; queries, keys, values, attention; the MLP.
            return 4 * (3 * norms * hidden + 2 * queries + 2 * keys + 4 * inner + 2 * head_norms)
        # Norms and rotary positions in float32, the rest in 2 bytes.
        return 10 * norms * hidden + 4 * (queries + keys) + 4 * (queries + keys) + 8 * inner + 6 * head_norms
    targets = [linear for linear in _targets(decoder, recipe.method) if linear.name.startswith("model.layers.0.")]
    ranks = sum(rank_of(linear, recipe.method) for linear in targets)
    if is_exact:
        return 4 * (2 * norms * hidden + 2 * queries + 2 * keys + 4 * inner + head_norms + ranks)
    # Each adapter keeps a 2-byte copy of its input; a frozen layer keeps none.
    inputs = sum(linear.in_features for linear in targets)
    return 4 * norms * hidden + 4 * (queries + keys) + 6 * inner + 4 * head_norms + 2 * (inputs + ranks)


def _kept_bytes_per_token(decoder: Decoder, recipe: Recipe) -> float:
    block = block_bytes_per_token(decoder, recipe)
    if not recipe.training.gradient_checkpointing:
        return decoder.num_hidden_layers * block
    return decoder.num_hidden_layers * decoder.hidden_size * _stream_bytes(decoder, recipe) + block


def _stream_bytes(decoder: Decoder, recipe: Recipe) -> int:
    """Bytes per element of the residual stream, which autocast leaves in the weights' data type."""
    return 4 if recipe.method.name == "full" else _loaded_bytes(decoder, recipe)


def _loaded_bytes(decoder: Decoder, recipe: Recipe) -> int:
    """Bytes per element of a frozen base."""
    if recipe.training.precision == "float32":
        return 4
    return _BYTES.get(decoder.dtype if recipe.model.dtype == "auto" else recipe.model.dtype, 4)


def _frozen_bytes(decoder: Decoder, recipe: Recipe) -> float:
    loaded = _loaded_bytes(decoder, recipe)
    if recipe.method.name != "qlora":
        return decoder.parameters * loaded
    matrices = sum(linear.weights for linear in decoder.linears())
    return matrices * _NF4_BYTES + (decoder.parameters - matrices) * loaded


def _gathered_bytes(decoder: Decoder, recipe: Recipe) -> float:
    """What FSDP gathers at once: the embeddings, which form one group, and one block with its gradients."""
    block = sum(linear.weights for linear in decoder.linears()) / decoder.num_hidden_layers
    embeddings = decoder.parameters - block * decoder.num_hidden_layers
    return 2 * _BYTES[recipe.training.precision] * (embeddings + block)


def _cast_bytes(decoder: Decoder, recipe: Recipe) -> float:
    is_half = recipe.training.precision != "float32"
    in_float32 = recipe.method.name == "full" or (recipe.method.name == "lora" and _loaded_bytes(decoder, recipe) == 4)
    matrices = sum(linear.weights for linear in decoder.linears()) + decoder.embedding
    return 2 * matrices if is_half and in_float32 else 0


def _adapter_parameters(decoder: Decoder, method: Method) -> int:
    """Parameters of LoRA's matrices, of DoRA's vectors, and of the modules to save."""
    matrices = sum(
        rank_of(linear, method) * (linear.in_features + linear.out_features)
        + (linear.out_features if method.use_dora else 0)
        for linear in _targets(decoder, method)
    )
    whole = {"lm_head": decoder.embedding, "embed_tokens": decoder.embedding}
    return matrices + sum(
        whole.get(name, sum(linear.weights for linear in decoder.linears() if _matches(linear, name)))
        for name in method.modules_to_save
    )


def _targets(decoder: Decoder, method: Method) -> list[Linear]:
    if method.target_modules == ("all-linear",):
        return list(decoder.linears())
    head = Linear("lm_head", decoder.hidden_size, decoder.vocab_size)
    named = [re.escape(name) for name in method.target_modules]
    return [linear for linear in (*decoder.linears(), head) if any(_matches(linear, name) for name in named)]


def rank_of(linear: Linear, method: Method) -> int:
    """Rank of a layer's LoRA matrices."""
    return next((rank for pattern, rank in method.rank_pattern.items() if _matches(linear, pattern)), method.r)


def _matches(linear: Linear, pattern: str) -> bool:
    """As `peft.utils.get_pattern_key` matches a layer's name."""
    return re.match(rf"(.*\.)?({pattern})$", linear.name) is not None
