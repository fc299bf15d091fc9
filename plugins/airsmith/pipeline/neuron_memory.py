"""Estimates a training's memory on each core of a Neuron device, where processes share the model.

Each of `tensor` processes holds an equal part of every layer, and each of `pipeline` groups some of the layers;
data-parallel processes hold the same part. The parts, in bytes, for the models of optimum-neuron 0.4.5 (not measured on
a device):

- weights: in the recipe's precision, trained ones included. Every core holds the norms as a whole, and Granite's
  embeddings and head; with fewer key and value heads than processes, each process holds one head. Of LoRA's two
  matrices, the one on a layer's split side is split like the layer, the other is whole; fused layers have one A.
- gradients: in the recipe's precision; with bfloat16 also their sum in float32.
- optimizer: with bfloat16, ZeRO stage 1 splits float32 weights and AdamW's two moments, 12 bytes per trained parameter,
  among the data-parallel processes; with float32 each process holds both moments as a whole.
- activations: a block as `memory.py` counts it, split by tokens (Korthikanti et al. 2022,
  https://arxiv.org/abs/2205.05198, section 4.2: sequence parallelism), plus twice the tokens' states, gathered for
  attention and MLP. Without Neuron's attention kernel also the scores: in the recipe's precision before and after the
  softmax, and in float32 within. With gradient checkpointing, a block's input is kept, and one block's activations.
  A pipeline has as many batches in flight as groups.
- logits: over a process's part of the vocabulary, as `memory.py` counts them.

`OVERHEAD` covers what the estimate omits: the compiled program, the collectives' buffers and fragmentation.
"""

from __future__ import annotations

from airsmith.backends.neuron_lora import GATE_UP, LINEARS, QKV
from airsmith.backends.neuron_model import shares_embeddings, shares_heads_unevenly
from airsmith.contracts.graphs import uses_flash_attention
from airsmith.contracts.spec import BatchPlan, ParallelPlan
from airsmith.pipeline.decoder import Decoder, Linear
from airsmith.pipeline.memory import MemoryEstimate, block_bytes_per_token, rank_of, trained_parameters
from airsmith.recipe import Recipe
from airsmith.recipe.training import Method

_BYTES = {"float32": 4, "bfloat16": 2}
_SUM_BYTES, _ZERO1_BYTES, _ADAMW_BYTES = 4, 12, 8
_ROW_PARALLEL = ("o_proj", "down_proj")
"""Row-parallel layers: their inputs are split between the processes; the outputs of all others are."""


def estimate_core_memory(decoder: Decoder, recipe: Recipe, batch: BatchPlan, parallel: ParallelPlan) -> MemoryEstimate:
    """Memory for training a model by a recipe, on the core that needs the most.

    :param recipe: its LoRA targets are names of layers.
    """
    size, is_half = _BYTES[recipe.training.precision], recipe.training.precision == "bfloat16"
    base = _weights_per_core(decoder, parallel)
    adapter = 0 if recipe.method.name == "full" else _adapter_per_core(decoder, recipe.method, parallel)
    trained = adapter or base
    tokens = batch.per_device_train_batch_size * recipe.dataset.max_length
    return MemoryEstimate(
        parameters=decoder.parameters,
        trained=trained_parameters(decoder, recipe.method),
        weights=size * (base + adapter),
        gradients=trained * (size + (_SUM_BYTES if is_half else 0)),
        optimizer=trained * (_ZERO1_BYTES / batch.data_parallel_size if is_half else _ADAMW_BYTES),
        casts=0,
        activations=_activations(decoder, recipe, batch, parallel),
        logits=tokens * _vocabulary(decoder, parallel) * (12 + size),
    )


def _weights_per_core(decoder: Decoder, parallel: ParallelPlan) -> float:
    matrices = sum(_outputs_inputs(linear, decoder, parallel) for linear in _block(decoder))
    norms = decoder.family.norms * decoder.hidden_size
    embeddings = 1 if decoder.tie_word_embeddings or parallel.pipeline > 1 else 2
    blocks = decoder.num_hidden_layers / parallel.pipeline
    return (
        blocks * (matrices + norms)
        + embeddings * _vocabulary(decoder, parallel) * decoder.hidden_size
        + decoder.hidden_size
    )


def _outputs_inputs(linear: Linear, decoder: Decoder, parallel: ParallelPlan) -> float:
    """Elements of a layer's matrix on one core."""
    if _last(linear) in ("k_proj", "v_proj"):
        return linear.in_features * _key_width(decoder, parallel)
    return linear.weights / parallel.tensor


def _adapter_per_core(decoder: Decoder, method: Method, parallel: ParallelPlan) -> float:
    targets = [linear for linear in _block(decoder) if _last(linear) in method.target_modules]
    blocks = decoder.num_hidden_layers / parallel.pipeline
    in_block = sum(_lora_per_core(linear, decoder, method, parallel) for linear in targets)
    fused = [GATE_UP, *([QKV] if shares_heads_unevenly(decoder, parallel.tensor) else [])]
    doubled = sum(
        (len(members) - 1) * method.r * decoder.hidden_size
        for members in fused
        if all(name in method.target_modules for name in members)
    )
    vocabulary = _vocabulary(decoder, parallel)
    whole = sum(method.r * (decoder.hidden_size + vocabulary) for name in method.target_modules if name not in LINEARS)
    return blocks * (in_block - doubled) + whole


def _lora_per_core(linear: Linear, decoder: Decoder, method: Method, parallel: ParallelPlan) -> float:
    rank, name = rank_of(linear, method), _last(linear)
    if name in _ROW_PARALLEL:
        return rank * (linear.in_features / parallel.tensor + linear.out_features)
    outputs = linear.out_features / parallel.tensor
    if name in ("k_proj", "v_proj"):
        outputs = _key_width(decoder, parallel)
    return rank * (linear.in_features + outputs)


def _activations(decoder: Decoder, recipe: Recipe, batch: BatchPlan, parallel: ParallelPlan) -> float:
    rows, length = batch.per_device_train_batch_size, recipe.dataset.max_length
    size, tokens = _BYTES[recipe.training.precision], rows * length
    block = tokens * block_bytes_per_token(decoder, recipe) / parallel.tensor
    block += 2 * tokens * decoder.hidden_size * size
    if not uses_flash_attention(length):
        block += rows * length**2 * decoder.num_attention_heads / parallel.tensor * (2 * size + 4)
    blocks = decoder.num_hidden_layers  # A pipeline stage has fewer blocks, but of as many more batches in flight.
    if not recipe.training.gradient_checkpointing:
        return blocks * block
    return blocks * tokens * decoder.hidden_size * size / parallel.tensor + block


def _vocabulary(decoder: Decoder, parallel: ParallelPlan) -> float:
    """Vocabulary entries whose embeddings and logits one core holds."""
    return decoder.vocab_size / parallel.tensor if shares_embeddings(decoder) else decoder.vocab_size


def _key_width(decoder: Decoder, parallel: ParallelPlan) -> int:
    """Elements of a token's keys on one core."""
    return max(1, decoder.num_key_value_heads // parallel.tensor) * decoder.head_dim


def _block(decoder: Decoder) -> list[Linear]:
    """The linear layers of one block."""
    return [linear for linear in decoder.linears() if linear.name.startswith("model.layers.0.")]


def _last(linear: Linear) -> str:
    return linear.name.rsplit(".", 1)[-1]
