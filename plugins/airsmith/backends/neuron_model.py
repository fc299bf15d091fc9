"""Which models optimum-neuron 0.4.5 can share between processes: the rules of its layers, by a config's sizes."""

from __future__ import annotations

from airsmith.backends.model_sizes import ModelSizes
from airsmith.errors import AirsmithError, ErrorKind

_WHOLE_EMBEDDINGS = ("granite",)
"""Families whose embeddings and head every process has as a whole; they have no pipeline either."""


def shares_embeddings(model: ModelSizes) -> bool:
    """Whether each process has a part of the embeddings and the head alone."""
    return model.model_type not in _WHOLE_EMBEDDINGS


def shares_heads_unevenly(model: ModelSizes, tensor: int) -> bool:
    """Whether key and value heads are copied, so that each process has some: q, k and v are then one layer."""
    return model.num_key_value_heads % tensor != 0


def check_tensor_parallel(model: ModelSizes, tensor: int, possible: list[int]) -> None:
    """See that the processes of a group get equal parts of every layer.

    :param possible: sizes of a group that the cores allow.
    :raises AirsmithError: `bad_recipe`, naming each size that does not divide and the nearest group that works.
    """
    wrong = _uneven(model, tensor)
    if not wrong:
        return
    fitting = [size for size in possible if not _uneven(model, size)]
    nearest = min(fitting, key=lambda size: (abs(size - tensor), -size))
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"The base model's {'; '.join(wrong)}: {tensor} processes share every layer "
        "(backend.tensor_parallel_size), each with an equal part.",
        f"Set backend.tensor_parallel_size to {nearest}.",
    )


def check_layers(model: ModelSizes, pipeline: int) -> None:
    """See that the groups of a pipeline get equal numbers of blocks, and that nothing of a block is left out.

    :raises AirsmithError: `bad_recipe`.
    """
    if model.attention_bias or model.mlp_bias:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "The base model's projections add biases, which optimum-neuron's layers do not have: they would be lost.",
            "Choose a model without attention_bias and mlp_bias, or train on 'cuda' or 'rocm'.",
        )
    if pipeline > 1 and model.model_type in _WHOLE_EMBEDDINGS:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.pipeline_parallel_size is {pipeline}, but optimum-neuron has no pipeline for {model.model_type}.",
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
    """The sizes of which a group cannot have equal parts."""
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
