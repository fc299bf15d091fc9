"""Stub of torch_xla for CPUs: one device, and no compilation."""

from __future__ import annotations

import functools

import torch

__version__ = "2.8.0"

from torch_xla.core.xla_model import mark_step

_ones = torch.ones


@functools.wraps(_ones)
def _ones_on_cpu(*size, device=None, **kwargs):
    """optimum-neuron creates its causal mask on the device named "xla"."""
    return _ones(*size, device="cpu" if device == "xla" else device, **kwargs)


torch.ones = _ones_on_cpu


def sync(wait=False):
    """Alias of `mark_step` since torch_xla 2.8."""
    mark_step(wait)
