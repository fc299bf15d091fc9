"""Files as torch_xla's serialization ("xser") writes them, without torch_xla: references to tensors in files beside."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch

MODULE = "torch_xla.utils.serialization"


class TensorReference:
    """Pickled under the name that torch_xla's own class has."""

    def __init__(self, tid: object) -> None:
        self.tid = tid


TensorReference.__module__ = MODULE


def save_references(state: Mapping[str, object], path: Path) -> None:
    """Save an object with references in it."""
    modules = {name: ModuleType(name) for name in ("torch_xla", "torch_xla.utils", MODULE)}
    modules[MODULE].TensorReference = TensorReference  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, modules):
        torch.save(state, path)


def save_xser(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Save a state: a reference for each tensor, and a folder with a file for each."""
    folder = path.with_name(f"{path.name}.tensors")
    folder.mkdir()
    for number, tensor in enumerate(state.values()):
        torch.save(tensor, folder / f"tensor_{number}.pt")
    save_references({name: TensorReference(number) for number, name in enumerate(state)}, path)
