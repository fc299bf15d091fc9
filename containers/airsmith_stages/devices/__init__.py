"""The devices that stages compute on. Only this package contains names of backends."""

from __future__ import annotations

import importlib

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.devices.base import Device

_NAMES = ("cpu", "cuda", "rocm", "neuron_xla", "neuron_native")
_MODULES = {name: f"airsmith_stages.devices.{name}" for name in _NAMES}


def get_device(backend: str) -> Device:
    """The device of a backend. Importing its module does not import torch; `prepare` does.

    :raises AirsmithError: `bad_recipe` if this version has no device for the backend.
    """
    if backend not in _MODULES:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.name is {backend!r}, which this version does not support.",
            f"Use one of {', '.join(sorted(_MODULES))}.",
        )
    device: Device = importlib.import_module(_MODULES[backend]).DEVICE
    return device


__all__ = ["Device", "get_device"]
