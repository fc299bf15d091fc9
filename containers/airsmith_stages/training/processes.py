"""The processes that train one model together, and the few words that they say to each other."""

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

PATIENCE = timedelta(minutes=30)
"""How long one process waits for another: loading, validating and uploading take their time on slow disks."""


@dataclass(frozen=True)
class Processes:
    """This process among those that torchrun has started; one alone needs no process group.

    :param node: number of this process's node, and its own number there.
    :param talk: the group for words between the steps. It is gloo's everywhere: they lie in the host's memory.
    :param upload: the same for what goes on behind the training, so that nobody takes the other's words for his own.
    """

    rank: int = 0
    world_size: int = 1
    node: tuple[int, int] = (0, 0)
    talk: Any = None
    upload: Any = None

    @classmethod
    def join(cls, backend: str) -> Processes:
        """Meet the others that torchrun has started; alone where it has started none.

        :param backend: torch's name of what carries tensors between the devices: gloo, nccl.
        """
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=PATIENCE)
        talk, upload = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
        node = int(os.environ["GROUP_RANK"]), int(os.environ["LOCAL_RANK"])
        return cls(dist.get_rank(), world_size, node, talk, upload)

    @property
    def is_leader(self) -> bool:
        """Whether this process speaks for all: it alone writes to the run's folder."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """Whether it is so for one of them."""
        return value if self.world_size == 1 else self._reduced(float(value), dist.ReduceOp.MAX) > 0

    def total(self, value: float) -> float:
        """The sum of what each one has."""
        return value if self.world_size == 1 else self._reduced(value, dist.ReduceOp.SUM)

    def mean(self, value: float) -> float:
        """The mean of what each one has."""
        return self.total(value) / self.world_size

    def gather(self, value: _T, group: Any = None) -> list[_T]:
        """What each one has, by rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value, group=group or self.talk)
        return gathered

    def together(self, work: Callable[[], _T], group: Any = None) -> list[_T]:
        """Each does its part; what one fails with, all fail with.

        :returns: what each part came to, by rank.
        """
        if self.world_size == 1:
            return [work()]
        result: _T | AirsmithError
        try:
            result = work()
        except Exception as failure:
            result = as_airsmith_error(failure)
        results = self.gather(result, group)
        for each in results:
            if isinstance(each, AirsmithError):
                raise each
        return results  # type: ignore[return-value]

    def by_leader(self, work: Callable[[], _T], group: Any = None) -> _T:
        """The leader does it, and all know what it came to; what it fails with, all fail with."""
        return self.together(lambda: work() if self.is_leader else None, group)[0]  # type: ignore[return-value]

    def _reduced(self, value: float, how: Any) -> float:
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, how, group=self.talk)
        return tensor.item()


ALONE = Processes()
