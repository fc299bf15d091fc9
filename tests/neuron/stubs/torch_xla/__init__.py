"""torch_xla on a CPU: one device, and nothing that is compiled."""

from __future__ import annotations

import functools

import torch

__version__ = "2.8.0"

from torch_xla.core.xla_model import mark_step

_ones = torch.ones


@functools.wraps(_ones)
def _ones_on_cpu(*size, device=None, **kwargs):
    """optimum-neuron makes its causal mask on the device "xla" by that name."""
    return _ones(*size, device="cpu" if device == "xla" else device, **kwargs)


torch.ones = _ones_on_cpu


def sync(wait=False):
    """As of torch_xla 2.8 the other name of `mark_step`."""
    mark_step(wait)
