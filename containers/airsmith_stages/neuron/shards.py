"""The library's files of trained parameters: each rank writes its shard, and loads it after a restart.

optimum-neuron 0.4.5 writes adapters as `adapter_default/{adapter_config.json, adapter_shards/…}`, and all parameters as
`shards/…`; it writes the marker `done` after every rank has written its shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from neuronx_distributed.parallel_layers.parallel_state import (
    get_pipeline_model_parallel_rank,
    get_tensor_model_parallel_rank,
)
from optimum.neuron.peft.utils.save_and_load import get_peft_model_state_dict
from torch import nn
from torch_xla.utils import serialization

from airsmith.contracts.adapter_files import ADAPTER_CONFIG
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.neuron.model import ModelShard
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.distributed_artifact import files_under

ADAPTER_FOLDER = "adapter_default"
ADAPTER_SHARDS, MODEL_SHARDS = "adapter_shards", "shards"
DONE = "done"


def shards_folder(*, is_adapter: bool) -> str:
    """The library's folder of all shards, in the published artifact."""
    return ADAPTER_SHARDS if is_adapter else MODEL_SHARDS


def save_shards(
    model: nn.Module, folder: Path, distributed: DistributedContext, *, is_adapter: bool
) -> dict[str, Path]:
    """Write the trained parameters. All ranks must call this.

    :param model: the trainer's model: on the device, or a pipeline.
    :param folder: folder shared by the processes of a node.
    :returns: the files that this process must publish: those of its node, or none.
    :raises AirsmithError: `verification_failed` if the library did not write all shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lean = {"save_embedding_layers": False} if is_adapter else {}
    model.save_pretrained(str(folder), is_main_process=distributed.is_main_process, **lean)
    distributed.barrier()
    root = folder / ADAPTER_FOLDER if is_adapter else folder
    shards = shards_folder(is_adapter=is_adapter)
    distributed.on_main_process(lambda: _check_done(root / shards))
    if not distributed.is_local_main_process:
        return {}
    kept = (f"{shards}/", ADAPTER_CONFIG)
    return {name: path for name, path in files_under(root).items() if name.startswith(kept)}


def load_shards(model: ModelShard, folder: Path) -> None:
    """Load this rank's shard into a model that is not on the device yet.

    :param folder: the published files, with all shards.
    :raises AirsmithError: `verification_failed` if its parameters are not the model's trainable parameters.
    """
    saved = read_shard(folder / shards_folder(is_adapter=model.is_adapter))
    current = _trained_state(model)
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in current.items()}:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"The parameters in checkpoint {folder.name} are not those that this recipe trains.",
            "Delete the training's checkpoints from the store and clear train to start from the beginning.",
        )
    with torch.no_grad():
        for name, value in current.items():
            value.copy_(saved[name])


def read_shard(folder: Path) -> dict[str, torch.Tensor]:
    """This rank's tensors, by their names in the library's files.

    :param folder: the library's folder, with `model/dp_rank_00_tp_rank_TT_pp_rank_PP.pt`, whose tensors may be in
        separate files next to it.
    """
    tensor, pipeline = get_tensor_model_parallel_rank(), get_pipeline_model_parallel_rank()
    path = folder / "model" / f"dp_rank_00_tp_rank_{tensor:02d}_pp_rank_{pipeline:02d}.pt"
    with torch.serialization.safe_globals([serialization.TensorReference]):
        content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return {name: _tensor(value, path) for name, value in content.items()}


def _tensor(value: Any, path: Path) -> torch.Tensor:
    if not isinstance(value, serialization.TensorReference):
        assert isinstance(value, torch.Tensor)
        return value
    tensor_file = path.with_name(f"{path.name}.tensors") / f"tensor_{value.tid}.pt"
    tensor: torch.Tensor = torch.load(tensor_file, map_location="cpu", weights_only=True)
    return tensor


def _trained_state(model: ModelShard) -> dict[str, torch.Tensor]:
    """The model's tensors, not copied, by their names in the library's files."""
    state = (
        get_peft_model_state_dict(model.module, save_embedding_layers=False)
        if model.is_adapter
        else model.module.state_dict()
    )
    return {name: value for name, value in state.items() if not value.is_meta}


def _check_done(shards: Path) -> None:
    if not (shards / DONE).exists():
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"optimum-neuron did not write `{DONE}` to {shards.name}: a rank did not write its shard.",
            "See the log for the cause, and run it again.",
        )
