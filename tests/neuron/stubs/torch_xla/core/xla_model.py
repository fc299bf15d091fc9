"""Stub of `torch_xla.core.xla_model`: steps, step closures, and collectives over torch's process groups.

Source: https://github.com/pytorch/xla/blob/v2.8.0/torch_xla/core/xla_model.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from torch_xla import runtime

REDUCE_SUM, REDUCE_MIN, REDUCE_MAX, REDUCE_MUL = "sum", "min", "max", "mul"
_OPERATIONS = {
    "sum": dist.ReduceOp.SUM,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
    "mul": dist.ReduceOp.PRODUCT,
}
_step_closures = []


def xla_device(n=None, devkind=None):
    return torch.device("cpu")


def send_cpu_data_to_device(datas, device, input_sharding=None):
    return datas


def add_step_closure(closure, args=(), run_async=False):
    """Run the closure at the end of the step."""
    _step_closures.append((closure, args))


def mark_step(wait=False, reset_scope=True):
    closures, _step_closures[:] = list(_step_closures), []
    for closure, args in closures:
        closure(*args)


def set_rng_state(seed, device=None):
    """Seed the device's random number generator."""
    torch.manual_seed(seed)


def get_ordinal(default=0):
    return runtime.global_ordinal()


def get_local_ordinal(default=0):
    return runtime.local_ordinal()


def is_master_ordinal(local=True):
    return (runtime.local_ordinal() if local else runtime.global_ordinal()) == 0


def rendezvous(tag, payload=b"", replicas=()):
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
    return [payload]


def all_reduce(reduce_type, inputs, scale=1.0, groups=None, cctx=None, pin_layout=True):
    """Return a new tensor for one tensor; reduce a list in place."""
    tensors = [inputs.clone()] if isinstance(inputs, torch.Tensor) else inputs
    for tensor in tensors:
        if _has_others(groups):
            dist.all_reduce(tensor, _OPERATIONS[reduce_type])
        if scale != 1.0:
            tensor.mul_(scale)
    return tensors[0] if isinstance(inputs, torch.Tensor) else None


def all_gather(value, dim=0, groups=None, output=None, pin_layout=True):
    if not _has_others(groups):
        return value.clone()
    gathered = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, value.contiguous())
    return torch.cat(gathered, dim=dim)


def _has_others(groups):
    return dist.is_initialized() and dist.get_world_size() > 1 and any(len(group) > 1 for group in groups or [[0, 1]])


def save(data, file_or_path, master_only=True, global_master=False):
    if not master_only or is_master_ordinal(local=not global_master):
        torch.save(data, file_or_path)


class ToXlaTensorArena:
    """Converts the selected objects in nested containers with one call."""

    def __init__(self, convert_fn, select_fn):
        self._convert, self._select = convert_fn, select_fn

    def transform(self, inputs):
        selected = {}
        self._collect(inputs, selected)
        converted = dict(zip(selected, self._convert(list(selected.values())), strict=True))
        return self._replace(inputs, converted)

    def _collect(self, value, selected):
        if self._select(value):
            selected.setdefault(id(value), value)
        elif isinstance(value, dict):
            for part in value.values():
                self._collect(part, selected)
        elif isinstance(value, (list, tuple)):
            for part in value:
                self._collect(part, selected)

    def _replace(self, value, converted):
        if self._select(value):
            return converted[id(value)]
        if isinstance(value, dict):
            return type(value)((key, self._replace(part, converted)) for key, part in value.items())
        if isinstance(value, (list, tuple)):
            return type(value)(self._replace(part, converted) for part in value)
        return value
