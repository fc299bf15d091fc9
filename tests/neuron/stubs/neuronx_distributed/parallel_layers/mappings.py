"""Communication between tensor-parallel ranks; no-ops for a single process."""

from __future__ import annotations


def scatter_to_sequence_parallel_region(input_, sequence_dimension=0, *args, **kwargs):
    return input_


def gather_from_sequence_parallel_region(input_, sequence_dimension=0, *args, **kwargs):
    return input_


def reduce_from_tensor_model_parallel_region(input_, *args, **kwargs):
    return input_
