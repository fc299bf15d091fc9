"""The accelerators that a stage's process computes on. Nowhere else in the stages does a backend's name stand."""

from __future__ import annotations

import importlib

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.devices.base import Device

_NAMES = ("cpu", "cuda", "rocm", "neuron_xla", "neuron_native")
_MODULES = {name: f"airsmith_stages.devices.{name}" for name in _NAMES}


def get_device(backend: str) -> Device:
    """The device of a backend. Importing it does not import torch: `prepare` does.

    :raises AirsmithError: `bad_recipe` where this version has none of that name.
    """
    if backend not in _MODULES:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.name is {backend!r}, which this version of the stages does not compute on.",
            f"Use one of {', '.join(sorted(_MODULES))}.",
        )
    device: Device = importlib.import_module(_MODULES[backend]).DEVICE
    return device


__all__ = ["Device", "get_device"]
