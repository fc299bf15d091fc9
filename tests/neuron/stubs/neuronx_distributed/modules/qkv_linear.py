"""The projection to queries, keys and values, which replicates keys and values to all ranks."""

from __future__ import annotations

import torch
from torch import nn

from neuronx_distributed.parallel_layers.layers import forward_alone, parallel_weight
from neuronx_distributed.parallel_layers.parallel_state import get_tensor_model_parallel_size
from neuronx_distributed.parallel_layers.utils import divide


class GQAQKVColumnParallelLinear(nn.Module):
    def __init__(
        self, input_size, output_sizes, bias=True, gather_output=True, dtype=torch.float32, device=None,
        init_method=None, sequence_parallel_enabled=False, keep_master_weight=False, kv_size_multiplier=1,
        fuse_qkv=True, reduce_dtype=torch.float32,
    ):  # fmt: skip
        super().__init__()
        size = get_tensor_model_parallel_size()
        divide(size, kv_size_multiplier)
        self.input_size, self.output_sizes, self.gather_output = input_size, output_sizes, gather_output
        self.dtype, self.device, self.arg_init_method, self.fuse_qkv = dtype, device, init_method, fuse_qkv
        self.kv_size_multiplier, self.keep_master_weight = kv_size_multiplier, keep_master_weight
        self.sequence_parallel_enabled, self.reduce_dtype, self.use_bias = sequence_parallel_enabled, reduce_dtype, bias
        self.q_output_size_per_partition = divide(output_sizes[0], size)
        self.kv_output_size_per_partition = divide(output_sizes[1] * kv_size_multiplier, size)
        lengths = (self.q_output_size_per_partition, *[self.kv_output_size_per_partition] * 2)
        weights = [parallel_weight((length, input_size), 0, 1, dtype, device, init_method) for length in lengths]
        if fuse_qkv:
            # The fused weight is a new parameter without the sharding attributes of its parts.
            self.weight_qkv = nn.Parameter(torch.cat([weight.detach() for weight in weights]))
        else:
            self.weight_q, self.weight_k, self.weight_v = weights

    def forward(self, input_):
        forward_alone()
        raise NotImplementedError("Alone no rank needs replicated keys and values")
