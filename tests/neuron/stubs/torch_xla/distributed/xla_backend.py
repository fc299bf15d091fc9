"""The backend `xla` of torch.distributed, implemented with gloo."""

from __future__ import annotations

import torch.distributed as dist


def _make(store, rank, size, timeout):
    return dist.ProcessGroupGloo(store, rank, size, timeout)


if not hasattr(dist.Backend, "XLA_ON_CPU"):
    dist.Backend.register_backend("xla", _make, devices=["cpu"])
    dist.Backend.XLA_ON_CPU = True

# optimum-neuron checks that the default group has this class; torch wraps gloo's group in its own class.
ProcessGroupXla = dist.ProcessGroup
