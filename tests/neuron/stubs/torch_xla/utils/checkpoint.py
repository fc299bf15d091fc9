"""Recomputing instead of keeping activations: as torch's own, and like it reentrant unless told otherwise."""

from __future__ import annotations

import torch.utils.checkpoint


def checkpoint(function, *args, use_reentrant=True, **kwargs):
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=use_reentrant, **kwargs)
