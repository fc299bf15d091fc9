"""Adapters that the library's classes shard, and their consolidation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file

from airsmith_stages.consolidating.assembly import consolidate
from airsmith_stages.consolidating.optimum_neuron import ADAPTER_SHARDS, read_optimum_neuron
from airsmith_stages.consolidating.replicas import Spread, spread_of
from airsmith_stages.weights.readers import FolderReader
from tests.support.neuron_models import ALL_PROJECTIONS, Split, new_adapter, new_config, new_model, shard_adapter

Tensors = dict[str, torch.Tensor]
GATE_UP, QKV = ("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Case:
    """An adapter to shard.

    :param fused: groups of projections that the library fuses into one layer with one lora_A.
    :param sizes: replace the default sizes of the model.
    """

    family: str
    split: Split
    fused: tuple[tuple[str, ...], ...] = (GATE_UP,)
    targets: tuple[str, ...] = ALL_PROJECTIONS
    sizes: tuple[tuple[str, int], ...] = ()
    layers: tuple[int, ...] | None = None


class ShardedAdapters:
    """Makes models, adapters and their shards, each only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, family: str, **sizes: Any) -> Path:
        """Make a model."""
        name = "-".join([family, *(f"{key}-{value}" for key, value in sizes.items())])
        return self._once(name, lambda folder: new_model(folder, new_config(family, **sizes)))

    def adapter(self, case: Case) -> Path:
        """Make an adapter."""
        targets = list(case.targets)
        name = f"adapter-{self.model(case.family, **dict(case.sizes)).name}-{'-'.join(targets)}-{case.layers}"
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=targets,
            layers_to_transform=None if case.layers is None else list(case.layers),
            task_type="CAUSAL_LM",
        )
        base = self.model(case.family, **dict(case.sizes))
        return self._once(name, lambda folder: new_adapter(folder, base, config))

    def shards(self, case: Case) -> Path:
        """Make an adapter's shards; returns the folder with `adapter_config.json` and `adapter_shards`."""
        base, adapter = self.model(case.family, **dict(case.sizes)), self.adapter(case)
        folder = self._once(
            f"shards-{adapter.name}-{case.split}", lambda folder: shard_adapter(base, adapter, folder, case.split)
        )
        return folder / "adapter_default"

    def _once(self, name: str, make: Callable[[Path], object]) -> Path:
        folder = self.folder / name
        if not folder.exists():
            make(folder)
        return folder


def consolidated(folder: Path, output: Path, split: Split, kind: str = ADAPTER_SHARDS) -> tuple[Tensors, Spread]:
    """Consolidate the shards with Airsmith."""
    checkpoint = read_optimum_neuron(FolderReader(folder), folder=kind, tp_size=split.tensor, pp_size=split.pipeline)
    output.mkdir(exist_ok=True)

    def write(name: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        with (output / name).open("wb") as file:
            assert sum(file.write(piece) for piece in pieces) == size_bytes

    consolidate(checkpoint, write)
    return load_file(output / "model.safetensors"), spread_of(checkpoint)


def assert_equal_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Assert that names, data types and values are equal."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def expected_tensors(adapter: Path, fused: Sequence[Sequence[str]]) -> Tensors:
    """Read an adapter's tensors; fused projections have the mean of their lora_A, as the library computes it."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    for members in fused:
        for name in [name for name in tensors if f".{members[0]}.lora_A." in name]:
            names = [name.replace(members[0], member) for member in members]
            mean = torch.mean(torch.stack([tensors[name] for name in names]), dim=0)
            tensors.update({name: mean.clone() for name in names})
    return tensors
