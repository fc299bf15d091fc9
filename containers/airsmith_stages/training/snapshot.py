"""Snapshots of model and optimizer for checkpoints, copied to memory first so that training can continue."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from transformers.trainer import OPTIMIZER_NAME

from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.distributed_artifact import Content
from airsmith_stages.training.model import load_trainable, trainable_parameters

TRAINABLE = "trainable.safetensors"
"""A checkpoint's file of trainable parameters that are not sharded."""
SHARDS = "shards"
"""A checkpoint's folder of sharded parameters: one safetensors file per rank."""


class Snapshots(Protocol):
    """Saves the state of model and optimizer in a checkpoint and restores it."""

    def take(self, optimizer: torch.optim.Optimizer, local_dir: Path) -> Callable[[], Content]:
        """Copy the state to memory.

        :param local_dir: folder for temporary files until they are uploaded.
        :returns: a function that creates this rank's files from the copy.
        """

    def load_model(self, folder: Path) -> None:
        """Load a checkpoint's parameters."""

    def load_optimizer(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        """Load a checkpoint's optimizer state."""


class WholeSnapshots:
    """Snapshots of parameters that every rank holds completely: the main process writes them."""

    def __init__(self, model: nn.Module, distributed: DistributedContext) -> None:
        self._model = model
        self._distributed = distributed

    def take(self, optimizer: torch.optim.Optimizer, local_dir: Path) -> Callable[[], Content]:
        """Copy the state to memory as the contents of its files."""
        if not self._distributed.is_main_process:
            return dict
        parameters = {name: parameter.detach().contiguous() for name, parameter in trainable_parameters(self._model)}
        state = io.BytesIO()
        torch.save(optimizer.state_dict(), state)
        files = {TRAINABLE: save(parameters), OPTIMIZER_NAME: state.getvalue()}
        return lambda: files

    def load_model(self, folder: Path) -> None:
        """Load a checkpoint's parameters."""
        load_trainable(self._model, folder / TRAINABLE)

    def load_optimizer(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        """Load a checkpoint's optimizer state."""
        state = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state)


class ShardedSnapshots:
    """Snapshots of sharded parameters: each rank writes its shards, and any number of ranks can read them."""

    def __init__(self, model: nn.Module, distributed: DistributedContext) -> None:
        self._model = model
        self._distributed = distributed

    def take(self, optimizer: torch.optim.Optimizer, local_dir: Path) -> Callable[[], Content]:
        """Copy the state to memory; its files are written in the background."""
        folder = local_dir / SHARDS
        written = dcp.async_save(
            {**self._parameters(), **_named(get_optimizer_state_dict(self._model, optimizer))},
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            process_group=self._distributed.upload_group,
            no_dist=self._distributed.world_size == 1,
        )

        def files() -> Content:
            written.result()
            own_prefix = f"shard-{self._distributed.rank + 1:05d}-"
            return {
                f"{SHARDS}/{path.name}": path for path in sorted(folder.iterdir()) if path.name.startswith(own_prefix)
            }

        return files

    def load_model(self, folder: Path) -> None:
        """Load a checkpoint's parameters, saved with any number of ranks."""
        self._load(folder, self._parameters())

    def load_optimizer(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        """Load a checkpoint's optimizer state, saved with any number of ranks."""
        state = get_optimizer_state_dict(self._model, optimizer)
        self._load(folder, _named(state))
        set_optimizer_state_dict(self._model, optimizer, state)

    def _parameters(self) -> dict[str, Any]:
        return {f"model.{name}": tensor for name, tensor in get_model_state_dict(self._model).items()}

    def _load(self, folder: Path, tensors: dict[str, Any]) -> None:
        """Fill tensors in place."""
        dcp.load(
            tensors,
            storage_reader=HuggingFaceStorageReader(str(folder / SHARDS)),
            process_group=self._distributed.control_group,
            no_dist=self._distributed.world_size == 1,
        )


def _named(optimizer_state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of an optimizer's state by name, not copied."""
    return {
        f"optimizer.{parameter}.{moment}": tensor
        for parameter, moments in optimizer_state["state"].items()
        for moment, tensor in moments.items()
    }
