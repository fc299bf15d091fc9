"""Attention of the device's kernels, which a CPU has not: recipes for it say `eager`."""

from __future__ import annotations


def nki_flash_attn_func(*args, **kwargs):
    raise NotImplementedError("Flash attention runs on a device only")
