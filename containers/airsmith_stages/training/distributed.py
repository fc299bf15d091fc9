"""The distributed context of a training: this process's rank, and small collectives over the host's memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from airsmith.errors import AirsmithError
from airsmith_stages.failures import as_airsmith_error

_T = TypeVar("_T")

TIMEOUT = timedelta(minutes=30)
"""Timeout of a collective: processes load, validate and upload at different speeds on slow disks."""


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that torchrun has started. A single process has no process groups.

    :param local_rank: this process's rank on its node.
    :param control_group: process group for the collectives between steps. It is always a gloo group, whose tensors are
        in the host's memory.
    :param upload_group: a second gloo group for the uploads that run in the background: the messages of the two must
        not mix.
    """

    rank: int = 0
    world_size: int = 1
    node_rank: int = 0
    local_rank: int = 0
    control_group: Any = None
    upload_group: Any = None

    @classmethod
    def from_environment(cls, backend: str) -> DistributedContext:
        """Join the processes that torchrun has started. Without torchrun, the context of a single process.

        :param backend: torch's name of the backend for tensors on the devices: gloo, nccl.
        """
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=TIMEOUT)
        control_group, upload_group = (dist.new_group(backend="gloo", timeout=TIMEOUT) for _ in range(2))
        node_rank, local_rank = int(os.environ["GROUP_RANK"]), int(os.environ["LOCAL_RANK"])
        return cls(dist.get_rank(), world_size, node_rank, local_rank, control_group, upload_group)

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process of rank 0, the only one that writes to the run's folder."""
        return self.rank == 0

    @property
    def is_local_main_process(self) -> bool:
        """Whether this is the process of rank 0 on its node."""
        return self.local_rank == 0

    def any(self, value: bool) -> bool:
        """Whether the value is true on any rank."""
        return value if self.world_size == 1 else self._all_reduce(float(value), dist.ReduceOp.MAX) > 0

    def sum(self, value: float) -> float:
        """The sum of the values of all ranks."""
        return value if self.world_size == 1 else self._all_reduce(value, dist.ReduceOp.SUM)

    def mean(self, value: float) -> float:
        """The mean of the values of all ranks."""
        return self.sum(value) / self.world_size

    def all_gather(self, value: _T, group: Any = None) -> list[_T]:
        """The values of all ranks, by rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value, group=group or self.control_group)
        return gathered

    def barrier(self) -> None:
        """Wait until all ranks have reached this point."""
        self.all_gather(None)

    def on_all_ranks(self, work: Callable[[], _T], group: Any = None) -> list[_T]:
        """Run a function on every rank. If it fails on one rank, all ranks raise that error.

        :returns: the results, by rank.
        """
        if self.world_size == 1:
            return [work()]
        result: _T | AirsmithError
        try:
            result = work()
        except Exception as failure:
            result = as_airsmith_error(failure)
        results = self.all_gather(result, group)
        for each in results:
            if isinstance(each, AirsmithError):
                raise each
        return results  # type: ignore[return-value]

    def on_main_process(self, work: Callable[[], _T], group: Any = None) -> _T:
        """Run a function on the main process only. All ranks return its result or raise its error."""
        return self.on_all_ranks(lambda: work() if self.is_main_process else None, group)[0]  # type: ignore[return-value]

    def once_per_node(self, work: Callable[[], _T], group: Any = None) -> _T:
        """Run a function on one process of each node. Every process returns the result of its node."""
        results = self.on_all_ranks(
            lambda: (self.node_rank, self.is_local_main_process, work() if self.is_local_main_process else None), group
        )
        return next(  # type: ignore[return-value]
            result for node_rank, is_local_main, result in results if node_rank == self.node_rank and is_local_main
        )

    def _all_reduce(self, value: float, operation: Any) -> float:
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, operation, group=self.control_group)
        return tensor.item()


SINGLE_PROCESS = DistributedContext()
