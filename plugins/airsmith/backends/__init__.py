"""Accelerator families, with their images, stages and parallelism. Does not import airflow or torch."""

from __future__ import annotations

from airsmith.backends.base import Backend, Placement, PodSize
from airsmith.backends.cpu import CPU
from airsmith.backends.gpu import CUDA, ROCM
from airsmith.backends.neuron_native import NEURON_NATIVE
from airsmith.backends.neuron_xla import NEURON_XLA
from airsmith.errors import AirsmithError, ErrorKind

_BACKENDS = {backend.name: backend for backend in (CPU, CUDA, ROCM, NEURON_XLA, NEURON_NATIVE)}


def get_backend(name: str) -> Backend:
    """The backend with this name.

    :raises AirsmithError: `bad_recipe` if this version of Airsmith has no such backend.
    """
    backend = _BACKENDS.get(name)
    if backend is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"backend.name is {name!r}, which this version of Airsmith does not support.",
            f"Use one of {', '.join(sorted(_BACKENDS))}.",
        )
    return backend


__all__ = ["Backend", "Placement", "PodSize", "get_backend"]
