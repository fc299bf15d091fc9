"""What a checkpoint holds of model and optimizer: a copy in memory first, so that the training can go on at once."""

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
"""A checkpoint's file of the parameters that are trained, where every process holds all of them."""
SHARDS = "shards"
"""A checkpoint's folder of safetensors files, one of each process, where each holds a part of every parameter."""


class Snapshots(Protocol):
    """How model and optimizer go into a checkpoint and come back."""

    def take(self, optimizer: torch.optim.Optimizer, local_dir: Path) -> Callable[[], Content]:
        """Copy the state to memory.

        :param local_dir: where files may be written until they are uploaded.
        :returns: what makes this process's files of the copy, whenever it is called.
        """

    def load_model(self, folder: Path) -> None:
        """Put a checkpoint's parameters back."""

    def load_optimizer(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's state of the optimizer back."""


class WholeSnapshots:
    """Every process holds the whole of what is trained: the leader writes it."""

    def __init__(self, model: nn.Module, distributed: DistributedContext) -> None:
        self._model = model
        self._distributed = distributed

    def take(self, optimizer: torch.optim.Optimizer, local_dir: Path) -> Callable[[], Content]:
        """Copy the state to memory, as the files that it becomes."""
        if not self._distributed.is_main_process:
            return dict
        parameters = {name: parameter.detach().contiguous() for name, parameter in trainable_parameters(self._model)}
        state = io.BytesIO()
        torch.save(optimizer.state_dict(), state)
        files = {TRAINABLE: save(parameters), OPTIMIZER_NAME: state.getvalue()}
        return lambda: files

    def load_model(self, folder: Path) -> None:
        """Put a checkpoint's parameters back."""
        load_trainable(self._model, folder / TRAINABLE)

    def load_optimizer(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's state of the optimizer back."""
        state = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state)


class ShardedSnapshots:
    """Each process holds a part of every parameter and writes it, so that any number of processes can read them."""

    def __init__(self, model: nn.Module, distributed: DistributedContext) -> None:
        self._model = model
        self._distributed = distributed

    def take(self, optimizer: torch.optim.Optimizer, local_dir: Path) -> Callable[[], Content]:
        """Copy the state to memory; files are written of it beside the training."""
        folder = local_dir / SHARDS
        written = dcp.async_save(
            {**self._parameters(), **_named(get_optimizer_state_dict(self._model, optimizer))},
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            process_group=self._distributed.upload_group,
            no_dist=self._distributed.world_size == 1,
        )

        def files() -> Content:
            written.result()
            mine = f"shard-{self._distributed.rank + 1:05d}-"
            return {f"{SHARDS}/{path.name}": path for path in sorted(folder.iterdir()) if path.name.startswith(mine)}

        return files

    def load_model(self, folder: Path) -> None:
        """Put a checkpoint's parameters back, whatever the number of processes was."""
        self._load(folder, self._parameters())

    def load_optimizer(self, folder: Path, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's state of the optimizer back, whatever the number of processes was."""
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
    """The tensors of an optimizer's state by name, as they are and not as copies."""
    return {
        f"optimizer.{parameter}.{moment}": tensor
        for parameter, moments in optimizer_state["state"].items()
        for moment, tensor in moments.items()
    }
