"""One process does the work of all ranks: torchrun always starts one process, which simulates all ranks for files.

It trains without sharding the model. It saves the shards of all ranks of the planned sizes, and merges them when it
resumes. All of that uses the library's classes.

Every Python process of the image imports this module at startup; it patches other modules after their import.
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
"""The library's folder of an adapter, and the folder of shards in it."""
is_simulating = False
"""Whether this process currently simulates ranks."""


def start_one_process(run: ModuleType) -> None:
    """Make torchrun start one process on this node."""
    parse_args = run.parse_args

    def parse_args_for_one(arguments: Sequence[str]) -> Any:
        options = parse_args(arguments)
        options.nproc_per_node = "1"
        return options

    run.parse_args = parse_args_for_one


def save_all_ranks(peft_model: ModuleType) -> None:
    """Make `save_pretrained` save the shards of all requested ranks."""
    adapted = peft_model.NeuronPeftModel
    save_own_rank = adapted.save_pretrained

    def save_pretrained(model: Any, folder: str, **options: Any) -> None:
        from neuronx_distributed.parallel_layers import parallel_state

        save_own_rank(model, folder, **options)
        if not is_simulating:
            reshard(Path(folder) / FOLDER, model, parallel_state.requested)

    adapted.save_pretrained = save_pretrained


def load_all_ranks(shards: ModuleType) -> None:
    """Make `load_shards` merge the shards of all ranks before it loads them."""
    load_own_rank = shards.load_shards

    def load_shards(model: Any, folder: Path) -> None:
        from neuronx_distributed.parallel_layers import parallel_state

        reshard(folder, model.module, parallel_state.Place())
        load_own_rank(model, folder)

    shards.load_shards = load_shards


def reshard(folder: Path, model: Any, sizes: Any) -> None:
    """Replace the shards of an adapter by those for other parallel sizes.

    :param folder: with the adapter's config and its shards.
    :param model: the adapted model, for its base.
    """
    from neuronx_distributed.parallel_layers import parallel_state
    from optimum.neuron.models.training import NeuronModelForCausalLM, checkpointing
    from optimum.neuron.peft import NeuronPeftModelForCausalLM

    base = model.get_base_model()
    with _simulating(), tempfile.TemporaryDirectory() as scratch:
        saved, whole, parts = (Path(scratch) / name for name in ("saved", "whole", "parts"))
        saved.mkdir()
        (saved / FOLDER).symlink_to(folder)
        checkpointing.consolidate_model_parallel_checkpoints_to_unified_checkpoint(saved, whole)
        shutil.copy(folder / "adapter_config.json", whole)
        for pipeline_rank in range(sizes.pipeline_size):
            for tensor_rank in range(sizes.tensor_size):
                place = (sizes.tensor_size, tensor_rank, sizes.pipeline_size, pipeline_rank)
                with parallel_state.simulated_rank(*place):
                    # A config takes its sizes from the simulated rank when it is created.
                    part = NeuronModelForCausalLM.from_pretrained(
                        base.config.name_or_path, replace(base.trn_config), dtype=base.dtype
                    )
                    adapted = NeuronPeftModelForCausalLM.from_pretrained(part, whole, is_trainable=True)
                    adapted.save_pretrained(str(parts))
        shutil.rmtree(folder / SHARDS)
        shutil.copytree(parts / FOLDER / SHARDS, folder / SHARDS)


@contextmanager
def _simulating() -> Iterator[None]:
    global is_simulating
    is_simulating = True
    try:
        yield
    finally:
        is_simulating = False


class _PatchingImporter(MetaPathFinder, Loader):
    """Imports modules and patches each right after its import."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]]) -> None:
        self._patches = patches
        self._loaders: dict[str, Loader] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in self._patches else None
        if spec is not None and spec.loader is not None:
            self._loaders[fullname], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loaders[module.__name__].exec_module(module)
        self._patches[module.__name__](module)


sys.meta_path.insert(
    0,
    _PatchingImporter(
        {
            "torch.distributed.run": start_one_process,
            "optimum.neuron.peft.peft_model": save_all_ranks,
            "airsmith_stages.neuron.shards": load_all_ranks,
        }
    ),
)
