"""Parallel sizes and ranks; `simulated_rank` makes one process act as any rank of any size.

One process cannot compute for several ranks. If several are requested, it trains at size 1 and keeps the sizes in
`requested`; to make and save the shards of several ranks, it simulates one after another. Several processes of torchrun
are data-parallel.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist
from torch_xla import runtime


@dataclass(frozen=True)
class Place:
    """One model-parallel rank."""

    tensor_size: int = 1
    tensor_rank: int = 0
    pipeline_size: int = 1
    pipeline_rank: int = 0


class _Group:
    """A process group without other processes; layers use only its size and rank."""

    def __init__(self, size, rank):
        self._size, self._rank = size, rank

    def size(self):
        return self._size

    def rank(self):
        return self._rank


requested = Place()
_place = None


@contextmanager
def simulated_rank(tensor_size=1, tensor_rank=0, pipeline_size=1, pipeline_rank=0):
    """Act as this rank within the block."""
    global _place
    before, _place = _place, Place(tensor_size, tensor_rank, pipeline_size, pipeline_rank)
    try:
        yield
    finally:
        _place = before


def initialize_model_parallel(tensor_model_parallel_size=1, pipeline_model_parallel_size=1, **kwargs):
    global requested, _place
    requested = Place(tensor_model_parallel_size, 0, pipeline_model_parallel_size, 0)
    _place = Place()


def model_parallel_is_initialized():
    return _place is not None


def destroy_model_parallel():
    global requested, _place
    requested, _place = Place(), None


def _current():
    if _place is None:
        raise AssertionError("intra_layer_model parallel group is not initialized")
    return _place


def get_tensor_model_parallel_size():
    return _current().tensor_size


def get_tensor_model_parallel_rank():
    return _current().tensor_rank


def get_pipeline_model_parallel_size():
    return _current().pipeline_size


def get_pipeline_model_parallel_rank():
    return _current().pipeline_rank


def get_data_parallel_size():
    _current()
    return runtime.world_size()


def get_data_parallel_rank():
    _current()
    return runtime.global_ordinal()


def get_context_model_parallel_size():
    return 1


def get_tensor_model_parallel_group(as_list=False):
    return [[0]] if as_list else _Group(get_tensor_model_parallel_size(), get_tensor_model_parallel_rank())


def get_pipeline_model_parallel_group(as_list=False):
    return [[0]] if as_list else _Group(get_pipeline_model_parallel_size(), get_pipeline_model_parallel_rank())


def get_data_parallel_group(as_list=False):
    return get_data_parallel_replica_groups() if as_list else dist.group.WORLD


def get_data_parallel_replica_groups():
    return [list(range(get_data_parallel_size()))]


def get_pipeline_model_parallel_replica_groups():
    return get_tensor_model_parallel_replica_groups()


def get_tensor_model_parallel_replica_groups():
    return [[rank] for rank in range(get_data_parallel_size())]
