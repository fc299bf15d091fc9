"""Models that optimum-neuron 0.4.5 can shard across processes: the rules of its layers, by the sizes in a config."""

from __future__ import annotations

from airsmith.backends.model_sizes import ModelSizes
from airsmith.errors import AirsmithError, ErrorKind

_REPLICATED_EMBEDDINGS = ("granite",)
"""Families whose embeddings and head are replicated on every process; they do not support a pipeline either."""


def shares_embeddings(model: ModelSizes) -> bool:
    """Whether embeddings and head are sharded across processes."""
    return model.model_type not in _REPLICATED_EMBEDDINGS


def shares_heads_unevenly(model: ModelSizes, tensor: int) -> bool:
    """Whether key and value heads are replicated, in which case q, k and v are one layer."""
    return model.num_key_value_heads % tensor != 0


def check_tensor_parallel(model: ModelSizes, tensor: int, possible: list[int]) -> None:
    """Check that a tensor parallel group can shard every layer evenly.

    :param possible: tensor parallel sizes that the cores allow.
    :raises AirsmithError: `bad_recipe`, with each size that does not divide and the nearest possible group size.
    """
    wrong = _uneven(model, tensor)
    if not wrong:
        return
    fitting = [size for size in possible if not _uneven(model, size)]
    nearest = min(fitting, key=lambda size: (abs(size - tensor), -size))
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"The base model's {'; '.join(wrong)}: every layer is sharded evenly across {tensor} processes "
        "(backend.tensor_parallel_size).",
        f"Set backend.tensor_parallel_size to {nearest}.",
    )


def check_layers(model: ModelSizes, pipeline: int) -> None:
    """Check that pipeline stages get equal numbers of blocks, and that no part of a block is ignored.

    :raises AirsmithError: `bad_recipe`.
    """
    if model.attention_bias or model.mlp_bias:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "The base model's projections have biases, which optimum-neuron's layers would ignore.",
            "Choose a model without attention_bias and mlp_bias, or train on 'cuda' or 'rocm'.",
        )
    if pipeline > 1 and model.model_type in _REPLICATED_EMBEDDINGS:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.pipeline_parallel_size is {pipeline}, but optimum-neuron has no pipeline parallelism for "
            f"{model.model_type}.",
            "Set backend.pipeline_parallel_size to 1.",
        )
    if model.num_hidden_layers % pipeline:
        layers = model.num_hidden_layers
        nearest = max(size for size in range(1, pipeline) if layers % size == 0)
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.pipeline_parallel_size {pipeline} does not divide the base model's {layers} layers "
            "(num_hidden_layers).",
            f"Set it to {nearest}.",
        )


def _uneven(model: ModelSizes, tensor: int) -> list[str]:
    """Descriptions of the sizes that a group cannot divide evenly."""
    divided = {
        "num_attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
        **({"vocab_size": model.vocab_size} if shares_embeddings(model) else {}),
    }
    wrong = [f"{name} {size} does not divide by {tensor}" for name, size in divided.items() if size % tensor]
    heads = model.num_key_value_heads
    if heads % tensor and tensor % heads:
        wrong.append(f"num_key_value_heads {heads} neither divides by {tensor} nor divides it")
    return wrong
