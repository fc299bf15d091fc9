"""Files in the format of torch_xla's serialization ("xser"), written without torch_xla."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch

MODULE = "torch_xla.utils.serialization"


class TensorReference:
    """Pickled under the name of torch_xla's class."""

    def __init__(self, tid: object) -> None:
        self.tid = tid


TensorReference.__module__ = MODULE


def save_references(state: Mapping[str, object], path: Path) -> None:
    """Save an object that contains references."""
    modules = {name: ModuleType(name) for name in ("torch_xla", "torch_xla.utils", MODULE)}
    modules[MODULE].TensorReference = TensorReference  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, modules):
        torch.save(state, path)


def save_xser(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Save a state: a file of references, and beside it a folder with a file for each tensor."""
    folder = path.with_name(f"{path.name}.tensors")
    folder.mkdir()
    for number, tensor in enumerate(state.values()):
        torch.save(tensor, folder / f"tensor_{number}.pt")
    save_references({name: TensorReference(number) for number, name in enumerate(state)}, path)
