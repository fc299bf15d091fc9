"""Checkpoints that one, two and four ranks of torch save: `python -m tests.support.torch_checkpoints FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

SHARDED_DIMENSIONS = {"columns": 1, "experts": 1, "vector": 0}


def main(folder: Path) -> None:
    """Save the same tensors unsharded and with each world size."""
    folder.mkdir(exist_ok=True)
    whole = {f"module.{name}": tensor for name, tensor in new_module().state_dict().items()} | new_tensors()
    save_file(whole, folder / "whole.safetensors")
    for world_size in (1, 2, 4):
        torch.multiprocessing.start_processes(
            save_rank, (world_size, folder / str(world_size)), world_size, start_method="fork"
        )


def save_rank(rank: int, world_size: int, folder: Path) -> None:
    """Save one rank's part of a module that FSDP2 shards and of tensors that are sharded in other dimensions."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    folder.mkdir(exist_ok=True)
    store = dist.FileStore(f"{folder}.rendezvous", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    mesh = init_device_mesh("cpu", (world_size,))
    module = new_module()
    fully_shard(module, mesh=mesh)
    state = {f"module.{name}": tensor for name, tensor in get_model_state_dict(module).items()} | new_tensors()
    state |= {
        name: distribute_tensor(state[name], mesh, [Shard(dimension)]) for name, dimension in SHARDED_DIMENSIONS.items()
    }
    if world_size == 4:
        grid = init_device_mesh("cpu", (2, 2))
        state["grid"] = distribute_tensor(state["grid"], grid, [Shard(0), Shard(1)])

    dcp.save({**state, "step": 7}, checkpoint_id=folder / "dcp")
    del state["nothing"]
    writer = HuggingFaceStorageWriter(str(folder / "hugging_face"), save_distributed=True)
    dcp.save(state, storage_writer=writer)
    state = {name: tensor for name, tensor in state.items() if name in SHARDED_DIMENSIONS}
    parts = {name: part for part, name in enumerate(state, start=1)}
    writer = HuggingFaceStorageWriter(str(folder / "parts"), parts, save_distributed=True)
    dcp.save(state, storage_writer=writer)
    dist.barrier()
    dist.destroy_process_group()


def new_module() -> nn.Module:
    """Make a small bfloat16 module whose rows four ranks cannot share evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 7, bias=False)).bfloat16()


def new_tensors() -> dict[str, torch.Tensor]:
    """Make tensors of other types and numbers of dimensions."""
    torch.manual_seed(1)
    return {
        "columns": torch.randn(3, 8).half(),
        "experts": torch.randn(4, 6, 5),
        "vector": torch.arange(9),
        "grid": torch.randn(6, 8),
        "scalar": torch.tensor(1.5),
        "nothing": torch.empty(0, 4),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
