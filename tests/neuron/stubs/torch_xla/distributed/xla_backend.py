"""The backend `xla` of torch.distributed; here it is gloo's."""

from __future__ import annotations

import torch.distributed as dist


def _make(store, rank, size, timeout):
    return dist.ProcessGroupGloo(store, rank, size, timeout)


if not hasattr(dist.Backend, "XLA_ON_CPU"):
    dist.Backend.register_backend("xla", _make, devices=["cpu"])
    dist.Backend.XLA_ON_CPU = True

# optimum-neuron asks whether the world's group is of this class. torch wraps gloo's in its own.
ProcessGroupXla = dist.ProcessGroup
