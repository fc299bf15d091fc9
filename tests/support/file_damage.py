"""Ways to damage a model's files: each takes a random generator and a folder of good ones; it names what it damaged."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Damage = Callable[[random.Random, Path], str]

_WILD_VALUES: tuple[Any, ...] = (
    None, -1, 1 << 70, 1.5, "", "F4", [], {}, [0], [0, -1], [1 << 62, 1 << 62], ["0", "8"], True, [[1]], "\ud800",
)  # fmt: skip
_WILD_PATHS: tuple[Any, ...] = (
    "../model.safetensors", "/etc/hostname", "a/../../b.safetensors", "..\\b.safetensors", "model.bin", "", None, 7,
    "gone.safetensors", "C:\\w.safetensors", "./../x.safetensors",
)  # fmt: skip


def bytes_of_header(seed: random.Random, folder: Path) -> str:
    """Some bytes of a safetensors header are others, twice there or gone."""
    file = seed.choice(sorted(folder.glob("model-*.safetensors")))
    content = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(seed.randint(1, 4)):
        _edit(seed, content, end)
    file.write_bytes(content)
    return file.name


def field_of_header(seed: random.Random, folder: Path) -> str:
    """A tensor's type, shape or place is a wild one, or a key stands there twice."""
    file = seed.choice(sorted(folder.glob("model-*.safetensors")))
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    name = seed.choice([key for key in header if key != "__metadata__"])
    if seed.random() < 0.2:
        text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    else:
        key = seed.choice(["dtype", "shape", "data_offsets", "more"])
        header[name][key] = seed.choice(_WILD_VALUES)
        text = json.dumps(header)
    raw = text.encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + content[end:])
    return file.name


def length_of_header(seed: random.Random, folder: Path) -> str:
    """A header claims another length."""
    file = seed.choice(sorted(folder.glob("model-*.safetensors")))
    content = file.read_bytes()
    length = seed.choice([0, 1, 7, len(content), 1 << 40, (1 << 64) - 1, seed.randrange(1 << 20)])
    file.write_bytes(length.to_bytes(8, "little") + content[8:])
    return file.name


def truncated(seed: random.Random, folder: Path) -> str:
    """A shard ends early."""
    file = seed.choice(sorted(folder.glob("model-*.safetensors")))
    content = file.read_bytes()
    file.write_bytes(content[: seed.randrange(len(content))])
    return file.name


def index(seed: random.Random, folder: Path) -> str:
    """An index names a file outside, another one, or none."""
    file = folder / "model.safetensors.index.json"
    content = json.loads(file.read_text())
    name = seed.choice(sorted(content["weight_map"]))
    kind = seed.randrange(4)
    if kind == 0:
        content["weight_map"][name] = seed.choice(_WILD_PATHS)
    elif kind == 1:
        # Its file goes with it: a whole model, but not the one of the adapter.
        del content["weight_map"][name]
        file.write_text(json.dumps(content))
        return name.removesuffix(".weight")
    elif kind == 2:
        content["weight_map"]["another"] = content["weight_map"][name]
    else:
        content = seed.choice([[], {}, {"weight_map": None}, {"weight_map": []}, {"weight_map": {}}, 3, "x"])
    file.write_text(json.dumps(content))
    return "safetensors"


def adapter(seed: random.Random, folder: Path) -> str:
    """An adapter has a tensor that belongs to nothing, lacks one, or its header is damaged."""
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    name = seed.choice([key for key in header if key != "__metadata__"])
    other = seed.choice(["base_model.model.nowhere.weight", "w", f"{name}.more", name.replace("q_proj", "z_proj"), ""])
    header = {other if key == name else key: value for key, value in header.items()}
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + content[end:])
    return "dapter"


def adapter_config(seed: random.Random, folder: Path) -> str:
    """An adapter's config is none."""
    file = folder / "adapter_config.json"
    file.write_text(seed.choice(["", "[]", "{", "null", '{"r": 0}', '{"r": "x"}', '{"peft_type": "LORA"}', '"' * 9]))
    return "dapter"


def metadata(seed: random.Random, folder: Path) -> str:
    """Some bytes of a checkpoint's pickle are others."""
    file = folder / ".metadata"
    content = bytearray(file.read_bytes())
    for _ in range(seed.randint(1, 6)):
        _edit(seed, content, len(content))
    file.write_bytes(content)
    return ".metadata"


def canary(seed: random.Random, folder: Path) -> str:
    """A pickle that makes a folder when it is read, alone or before a good one."""
    file = folder / seed.choice([".metadata", "__0_0.distcp"])
    call = seed.choice([os.mkdir, os.makedirs])
    ran = folder.parent / "ran"

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return call, (str(ran),)

    bad = pickle.dumps(seed.choice([Canary(), [Canary()], {"state_dict_metadata": Canary()}]), seed.randrange(6))
    good = file.read_bytes()
    if file.name == ".metadata" and seed.random() < 0.5:
        bad = bad[:-1] + good  # its opcodes first, without the STOP
    file.write_bytes(bad if file.name == ".metadata" else bad + good[len(bad) :])
    return file.name


def tensor_file(seed: random.Random, folder: Path) -> str:
    """Some bytes of what a process has saved are others, or it ends early."""
    file = folder / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    if seed.random() < 0.3:
        del content[seed.randrange(len(content)) :]
    for _ in range(seed.randint(1, 8)):
        _edit(seed, content, len(content))
    file.write_bytes(content)
    return ".distcp"


def sharding(seed: random.Random, folder: Path) -> str:
    """A process's safetensors file does not say where its chunks belong, says it wrongly, or some bytes are others."""
    file = folder / f"shard-{seed.randint(1, 2):05d}-model-00001-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    if seed.random() < 0.5:
        _edit(seed, content, end)
    else:
        header = json.loads(content[8:end])
        places = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
        places[seed.choice(sorted(places))] = seed.choice(
            [*_WILD_VALUES, *({"saved_offsets": value} for value in (*_WILD_VALUES, [3, 0], [1 << 40, 0]))]
        )
        header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(places)
        raw = json.dumps(header).encode()
        content[:end] = len(raw).to_bytes(8, "little") + raw
    file.write_bytes(content)
    return "shard-"


def lost(seed: random.Random, folder: Path) -> str:
    """The file of a process is gone."""
    file = seed.choice([".metadata", "__0_0.distcp"])
    (folder / file).unlink()
    return file


def process_state(seed: random.Random, folder: Path) -> str:
    """Some bytes of what names a process's tensors are others, or it ends early."""
    file = seed.choice(sorted((folder / "adapter_shards/model").glob("*.pt")))
    content = bytearray(file.read_bytes())
    if seed.random() < 0.3:
        del content[seed.randrange(len(content)) :]
    for _ in range(seed.randint(1, 8)):
        _edit(seed, content, len(content))
    file.write_bytes(content)
    return file.name


def process_metadata(seed: random.Random, folder: Path) -> str:
    """What says where a process's tensors belong says something wild."""
    file = folder / "adapter_shards/mp_metadata_pp_rank_0.json"
    content = json.loads(file.read_text())
    module = content["model_weight_transformation_specs"][seed.randrange(2)]
    wild = seed.choice(_WILD_VALUES)
    kind = seed.randrange(4)
    if kind == 0:
        spec = module["specs"][0][1]
        spec[seed.choice(sorted(spec))] = wild
    elif kind == 1:
        module["specs"][0] = seed.choice([wild, ["Other", {}], ["FusedLinearsSpec"], []])
    elif kind == 2:
        parameter = content["parameters"][seed.choice(sorted(content["parameters"]))]
        parameter[seed.choice(["tensor_model_parallel", "partition_dim", "num_partitions"])] = wild
    else:
        content[seed.choice(sorted(content))] = wild
    file.write_text(json.dumps(content))
    return "adapter_shards/"


def process_lost(seed: random.Random, folder: Path) -> str:
    """A file of a process is gone."""
    file = seed.choice(
        sorted(path for path in (folder / "adapter_shards").rglob("*") if path.name[-3:] in (".pt", "one"))
    )
    file.unlink()
    return file.name


def process_canary(seed: random.Random, folder: Path) -> str:
    """A pickle that makes a folder when it is read, in place of a process's or of one of its tensors."""
    file = seed.choice(sorted((folder / "adapter_shards/model").rglob("*.pt")))
    ran = folder.parent / "ran"

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(ran),)

    torch.save(seed.choice([Canary(), {"a": Canary()}, [Canary()]]), file)
    return file.name


MODEL: tuple[Damage, ...] = (bytes_of_header, field_of_header, length_of_header, truncated, index)
ADAPTER: tuple[Damage, ...] = (adapter, adapter_config)
CHECKPOINT: tuple[Damage, ...] = (metadata, canary, tensor_file, lost)
SHARDS: tuple[Damage, ...] = (sharding,)
PROCESSES: tuple[Damage, ...] = (process_state, process_metadata, process_lost, process_canary)


def _edit(seed: random.Random, content: bytearray, end: int) -> None:
    place = seed.randrange(max(1, min(end, len(content)) or 1))
    kind = seed.randrange(3)
    if kind == 0 and place < len(content):
        content[place] = seed.randrange(256)
    elif kind == 1:
        del content[place : place + seed.randint(1, 8)]
    else:
        content[place:place] = bytes(seed.randrange(256) for _ in range(seed.randint(1, 8)))
