"""The library's files of what was trained: each process writes its part, and reads it back after a restart.

optimum-neuron 0.4.5 lays them out as `adapter_default/{adapter_config.json, adapter_shards/…}`, and all parameters as
`shards/…`; the marker `done` is written when every process has written its part.
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

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.adapter_files import ADAPTER_CONFIG
from airsmith_stages.neuron.model import ModelShard
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.distributed_artifact import files_under

ADAPTER_FOLDER = "adapter_default"
ADAPTER_SHARDS, MODEL_SHARDS = "adapter_shards", "shards"
DONE = "done"


def shards_folder(*, is_adapter: bool) -> str:
    """The library's folder of every process's parts, in what is published."""
    return ADAPTER_SHARDS if is_adapter else MODEL_SHARDS


def save_shards(
    model: nn.Module, folder: Path, distributed: DistributedContext, *, is_adapter: bool
) -> dict[str, Path]:
    """Write what was trained. All processes must come here at the same time.

    :param model: as the trainer has it: on the device, or a pipeline's.
    :param folder: one that the processes of a node share.
    :returns: the files that this process is to publish: its node's, or none.
    :raises AirsmithError: `verification_failed` where the library did not come to its end.
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
    """Put back this process's part, into a model that is not on the device yet.

    :param folder: what was published, with every process's part.
    :raises AirsmithError: `verification_failed` where it holds other parameters than the model trains.
    """
    saved = read_shard(folder / shards_folder(is_adapter=model.is_adapter))
    current = _trained_state(model)
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in current.items()}:
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{folder.name} holds other parameters than this recipe trains.",
            "Delete the training's checkpoints from the store and clear train, so that it begins anew.",
        )
    with torch.no_grad():
        for name, value in current.items():
            value.copy_(saved[name])


def read_shard(folder: Path) -> dict[str, torch.Tensor]:
    """This process's tensors, by the names that the library gives them in its files.

    :param folder: the library's, with `model/dp_rank_00_tp_rank_TT_pp_rank_PP.pt`, whose tensors may lie beside it.
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
    beside = path.with_name(f"{path.name}.tensors") / f"tensor_{value.tid}.pt"
    tensor: torch.Tensor = torch.load(beside, map_location="cpu", weights_only=True)
    return tensor


def _trained_state(model: ModelShard) -> dict[str, torch.Tensor]:
    """The model's own tensors, not copies, by the names that the library saves them under."""
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
            f"optimum-neuron has left no `{DONE}` in {shards.name}: some process did not write its part.",
            "See the log for what happened there, and run it again.",
        )
