"""Activation checkpointing with torch's implementation, reentrant by default."""

from __future__ import annotations

import torch.utils.checkpoint


def checkpoint(function, *args, use_reentrant=True, **kwargs):
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=use_reentrant, **kwargs)
