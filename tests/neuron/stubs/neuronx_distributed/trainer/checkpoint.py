"""Saves a rank's shard with the same files, markers and pickled classes as the real library.

All ranks call it one after another, so that the first rank already writes the marker `done`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch_xla.core.xla_model as xm
import torch_xla.utils.serialization as xser

from neuronx_distributed.parallel_layers.parallel_state import (
    get_data_parallel_rank,
    get_pipeline_model_parallel_rank,
    get_tensor_model_parallel_rank,
)

g_iostate = None  # for asynchronous saves, which are not implemented


def save_checkpoint(
    checkpoint_dir_str, tag, model=None, optimizer=None, scheduler=None, user_content=None, num_workers=8,
    use_xser=False, num_kept_ckpts=None, async_save=False,
):  # fmt: skip
    if async_save:
        raise NotImplementedError("Asynchronous saving is not imitated")
    folder = Path(checkpoint_dir_str) / tag
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint").write_text("1")
    for part, content in (("optim", optimizer), ("model", model)):
        if content is not None and get_data_parallel_rank() == 0:
            (folder / part).mkdir(exist_ok=True)
            _save(
                content if isinstance(content, dict) else content.state_dict(), folder / part / _file_name(), use_xser
            )
    xm.rendezvous("saving checkpoint done")
    (folder / "done").write_text("1")


def _file_name():
    return (
        f"dp_rank_00_tp_rank_{get_tensor_model_parallel_rank():02d}_pp_rank_{get_pipeline_model_parallel_rank():02d}.pt"
    )


def _save(content, path, use_xser):
    if not use_xser:
        torch.save(content, path)
        return
    tensors_folder = Path(xser._get_tensors_folder(str(path)))
    tensors_folder.mkdir(exist_ok=True)
    info = {}

    def convert(tensors):
        for tid, tensor in enumerate(tensors):
            torch.save(tensor.detach().cpu(), xser._get_tensor_file(str(tensors_folder), tid))
            info[tid] = {"dtype": tensor.dtype, "shape": tensor.shape, "expert_model_parallel": False}
        return [xser.TensorReference(tid) for tid in range(len(tensors))]

    references = xm.ToXlaTensorArena(convert, lambda value: isinstance(value, torch.Tensor)).transform(content)
    torch.save(references, path)
    torch.save(info, f"{path}.info.pt")
