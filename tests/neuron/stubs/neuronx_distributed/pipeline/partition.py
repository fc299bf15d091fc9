"""Splits a pipeline evenly; later ranks get the remaining layers."""

from __future__ import annotations


def create_partitions(pipeline_parallel_size, model_layer_names):
    """The last layer of each rank except the last rank."""
    each, left = divmod(len(model_layer_names), pipeline_parallel_size)
    cuts, end = [], 0
    for rank in range(pipeline_parallel_size - 1):
        end += each + (rank >= pipeline_parallel_size - left)
        cuts.append(model_layer_names[end - 1])
    return cuts


def analyze_shared_weights_across_stages(traced_model, partitions):
    return []
