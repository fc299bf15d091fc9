"""Loaders that move batches to the device; no-ops on a CPU."""

from __future__ import annotations


class ParallelLoader:
    pass


class PerDeviceLoader:
    pass


class MpDeviceLoader:
    def __init__(self, loader, device, **kwargs):
        self._loader, self._device = loader, device

    def __iter__(self):
        return iter(self._loader)

    def __len__(self):
        return len(self._loader)
