"""Layers with sharded weights: shapes and attributes are real at any size; the forward pass works at size 1."""

from __future__ import annotations

import math

import torch
from torch import nn

from neuronx_distributed.parallel_layers.parallel_state import (
    get_tensor_model_parallel_group,
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_size,
)
from neuronx_distributed.parallel_layers.utils import divide, set_tensor_model_parallel_attributes


def create_local_weight(full_weight, partition_dim, per_partition_size, stride, out_weight=None):
    """This rank's shard: its pieces of all strides, concatenated."""
    pieces = torch.split(full_weight, divide(per_partition_size, stride), dim=partition_dim)
    mine = pieces[get_tensor_model_parallel_rank() :: get_tensor_model_parallel_size()]
    with torch.no_grad():
        return torch.cat(mine, dim=partition_dim, out=out_weight)


def parallel_weight(shape, dim, stride, dtype, device, init_method):
    """A sharded weight with its sharding attributes; not initialized on the device "meta"."""
    weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
    if weight.device.type != "meta":
        (init_method or _init_as_linear)(weight)
    set_tensor_model_parallel_attributes(weight, True, dim, stride, get_tensor_model_parallel_size())
    return weight


def _init_as_linear(weight):
    with torch.no_grad():
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def forward_alone():
    """A process that simulates a rank has only that rank's shard and cannot compute with it."""
    if get_tensor_model_parallel_size() > 1:
        raise NotImplementedError("A process that plays a rank cannot run the model")


class BaseParallelLinear(nn.Module):
    partition_dim: int

    def __init__(
        self, input_size, output_size, bias=True, dtype=torch.float32, device=None, stride=1, init_method=None,
        sequence_parallel_enabled=False, sequence_dimension=None, keep_master_weight=False, skip_bias_add=False,
        pad=False, tensor_model_parallel_group=None, reduce_dtype=torch.float32,
    ):  # fmt: skip
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.dtype, self.device, self.stride, self.arg_init_method = dtype, device, stride, init_method
        self.sequence_parallel_enabled = sequence_parallel_enabled
        self.sequence_dimension = sequence_dimension
        self.keep_master_weight, self.skip_bias_add, self.pad = keep_master_weight, skip_bias_add, pad
        self.tensor_parallel_group = tensor_model_parallel_group or get_tensor_model_parallel_group()
        self.reduce_dtype, self.add_bias = reduce_dtype, bias
        self.initialize_weight_and_bias()

    def initialize_weight_and_bias(self):
        shape = [self.output_size, self.input_size]
        shape[self.partition_dim] = divide(shape[self.partition_dim], get_tensor_model_parallel_size())
        self.weight = parallel_weight(
            shape, self.partition_dim, self.stride, self.dtype, self.device, self.arg_init_method
        )
        bias = torch.zeros(self.output_size, dtype=self.dtype, device=self.device)
        self.bias = nn.Parameter(bias) if self.add_bias else None

    def forward(self, input_):
        forward_alone()
        return nn.functional.linear(input_, self.weight, self.bias)


class ColumnParallelLinear(BaseParallelLinear):
    partition_dim = 0

    def __init__(self, input_size, output_size, bias=True, gather_output=True, **kwargs):
        super().__init__(input_size, output_size, bias, **kwargs)
        self.gather_output = gather_output


class RowParallelLinear(BaseParallelLinear):
    partition_dim = 1

    def __init__(self, input_size, output_size, bias=True, input_is_parallel=False, **kwargs):
        super().__init__(input_size, output_size, bias, **kwargs)
        self.input_is_parallel = input_is_parallel


class ParallelEmbedding(nn.Module):
    def __init__(
        self, num_embeddings, embedding_dim, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False,
        sparse=False, init_method=nn.init.normal_, device=None, dtype=torch.float32, shard_across_embedding=False,
        pad=False, sequence_parallel_enabled=False, tensor_model_parallel_group=None, sequence_dimension=None,
    ):  # fmt: skip
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.max_norm, self.norm_type, self.scale_grad_by_freq = max_norm, norm_type, scale_grad_by_freq
        self.sparse, self.shard_across_embedding, self.pad = sparse, shard_across_embedding, pad
        self.sequence_parallel_enabled, self.sequence_dim = sequence_parallel_enabled, sequence_dimension
        self.tensor_model_parallel_group = tensor_model_parallel_group or get_tensor_model_parallel_group()
        self.num_embeddings_per_partition = divide(num_embeddings, get_tensor_model_parallel_size())
        shape = [self.num_embeddings_per_partition, embedding_dim]
        self.weight = parallel_weight(shape, 0, 1, dtype, device, init_method)

    def forward(self, input_):
        forward_alone()
        return nn.functional.embedding(
            input_, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )
