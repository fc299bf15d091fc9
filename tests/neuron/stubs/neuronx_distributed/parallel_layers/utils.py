"""Sizes, attributes of sharded weights, and moves between devices, of which there is only one."""

from __future__ import annotations

from torch_xla import runtime


def divide(numerator, denominator):
    if numerator % denominator:
        raise AssertionError(f"{numerator} is not divisible by {denominator}")
    return numerator // denominator


def set_tensor_model_parallel_attributes(tensor, is_parallel, dim, stride, num_partitions=-1):
    tensor.tensor_model_parallel = is_parallel
    tensor.partition_dim = dim
    tensor.partition_stride = stride
    tensor.num_partitions = num_partitions


class EmbeddingUtility:
    @staticmethod
    def range_from_per_partition_vocab_size(per_partition_vocab_size, rank, world_size):
        first = rank * per_partition_vocab_size
        return first, first + per_partition_vocab_size


def get_local_world_size():
    return runtime.local_process_count()


def move_model_to_device(model, device):
    model.to(device)


def move_all_tensor_to_cpu(data, convert=True):
    return data
