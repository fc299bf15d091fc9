"""Stub of the device's attention kernel, which does not exist for CPUs: tests use `eager`."""

from __future__ import annotations


def nki_flash_attn_func(*args, **kwargs):
    raise NotImplementedError("Flash attention runs on a device only")
