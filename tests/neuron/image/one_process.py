"""One process does the work of all: torchrun starts one whatever it is asked for, and it plays every rank at the files.

It trains without splitting the model. What it saves, it saves as every rank of the planned sizes; where it goes
on, it puts their parts together again. All of that is done by the library's own classes.

Every Python of the image imports this when it starts; what it changes, it changes once that is imported.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER, SHARDS = "adapter_default", "adapter_shards"
"""Where the library saves an adapter, and in it the ranks' parts."""
is_playing = False
"""Whether this process is one of many ranks for a while."""


def start_one_process(run: ModuleType) -> None:
    """Let torchrun start one process on this node."""
    parse_args = run.parse_args

    def parse_args_for_one(arguments: Sequence[str]) -> Any:
        options = parse_args(arguments)
        options.nproc_per_node = "1"
        return options

    run.parse_args = parse_args_for_one


def save_all_ranks(peft_model: ModuleType) -> None:
    """Let what saves an adapter save it as all ranks that the training was asked for."""
    adapted = peft_model.NeuronPeftModel
    save_own_rank = adapted.save_pretrained

    def save_pretrained(model: Any, folder: str, **options: Any) -> None:
        from neuronx_distributed.parallel_layers import parallel_state

        save_own_rank(model, folder, **options)
        if not is_playing:
            split_anew(Path(folder) / FOLDER, model, parallel_state.asked)

    adapted.save_pretrained = save_pretrained


def load_all_ranks(shards: ModuleType) -> None:
    """Let what goes on from a checkpoint find the parts of all ranks in one."""
    load_own_rank = shards.load_shards

    def load_shards(model: Any, folder: Path) -> None:
        from neuronx_distributed.parallel_layers import parallel_state

        split_anew(folder, model.module, parallel_state.Place())
        load_own_rank(model, folder)

    shards.load_shards = load_shards


def split_anew(folder: Path, model: Any, sizes: Any) -> None:
    """Put the parts of an adapter for these sizes in the place of those that are there.

    :param folder: with the adapter's config and the ranks' parts.
    :param model: whose base the adapter belongs to.
    """
    from neuronx_distributed.parallel_layers import parallel_state
    from optimum.neuron.models.training import NeuronModelForCausalLM, checkpointing
    from optimum.neuron.peft import NeuronPeftModelForCausalLM

    base = model.get_base_model()
    with _many_ranks(), tempfile.TemporaryDirectory() as scratch:
        saved, whole, parts = (Path(scratch) / name for name in ("saved", "whole", "parts"))
        saved.mkdir()
        (saved / FOLDER).symlink_to(folder)
        checkpointing.consolidate_model_parallel_checkpoints_to_unified_checkpoint(saved, whole)
        shutil.copy(folder / "adapter_config.json", whole)
        for pipeline_rank in range(sizes.pipeline_size):
            for tensor_rank in range(sizes.tensor_size):
                place = (sizes.tensor_size, tensor_rank, sizes.pipeline_size, pipeline_rank)
                with parallel_state.playing(*place):
                    # A config takes the sizes of the place that it is made at.
                    part = NeuronModelForCausalLM.from_pretrained(
                        base.config.name_or_path, replace(base.trn_config), dtype=base.dtype
                    )
                    adapted = NeuronPeftModelForCausalLM.from_pretrained(part, whole, is_trainable=True)
                    adapted.save_pretrained(str(parts))
        shutil.rmtree(folder / SHARDS)
        shutil.copytree(parts / FOLDER / SHARDS, folder / SHARDS)


@contextmanager
def _many_ranks() -> Iterator[None]:
    global is_playing
    is_playing = True
    try:
        yield
    finally:
        is_playing = False


class _Changing(MetaPathFinder, Loader):
    """Imports modules as ever, and changes each right after."""

    def __init__(self, changes: dict[str, Callable[[ModuleType], None]]) -> None:
        self._changes = changes
        self._loaders: dict[str, Loader] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in self._changes else None
        if spec is not None and spec.loader is not None:
            self._loaders[fullname], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loaders[module.__name__].exec_module(module)
        self._changes[module.__name__](module)


sys.meta_path.insert(
    0,
    _Changing(
        {
            "torch.distributed.run": start_one_process,
            "optimum.neuron.peft.peft_model": save_all_ranks,
            "airsmith_stages.neuron.shards": load_all_ranks,
        }
    ),
)
