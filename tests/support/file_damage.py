"""Ways to damage a model's files.

Each takes a random generator and a folder of intact files, and returns a name that the refusal must contain.
"""

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

_INVALID_VALUES: tuple[Any, ...] = (
    None, -1, 1 << 70, 1.5, "", "F4", [], {}, [0], [0, -1], [1 << 62, 1 << 62], ["0", "8"], True, [[1]], "\ud800",
)  # fmt: skip
_INVALID_PATHS: tuple[Any, ...] = (
    "../model.safetensors", "/etc/hostname", "a/../../b.safetensors", "..\\b.safetensors", "model.bin", "", None, 7,
    "gone.safetensors", "C:\\w.safetensors", "./../x.safetensors",
)  # fmt: skip


def header_bytes(draw: random.Random, folder: Path) -> str:
    """Change, duplicate or remove some bytes of a safetensors header."""
    file = draw.choice(sorted(folder.glob("model-*.safetensors")))
    content = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(draw.randint(1, 4)):
        _edit(draw, content, end)
    file.write_bytes(content)
    return file.name


def header_field(draw: random.Random, folder: Path) -> str:
    """Set a tensor's dtype, shape or offsets to an invalid value, or duplicate a key."""
    file = draw.choice(sorted(folder.glob("model-*.safetensors")))
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    name = draw.choice([key for key in header if key != "__metadata__"])
    if draw.random() < 0.2:
        text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    else:
        key = draw.choice(["dtype", "shape", "data_offsets", "more"])
        header[name][key] = draw.choice(_INVALID_VALUES)
        text = json.dumps(header)
    raw = text.encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + content[end:])
    return file.name


def header_length(draw: random.Random, folder: Path) -> str:
    """Change the declared length of a header."""
    file = draw.choice(sorted(folder.glob("model-*.safetensors")))
    content = file.read_bytes()
    length = draw.choice([0, 1, 7, len(content), 1 << 40, (1 << 64) - 1, draw.randrange(1 << 20)])
    file.write_bytes(length.to_bytes(8, "little") + content[8:])
    return file.name


def truncated_shard(draw: random.Random, folder: Path) -> str:
    """Truncate a shard."""
    file = draw.choice(sorted(folder.glob("model-*.safetensors")))
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])
    return file.name


def index(draw: random.Random, folder: Path) -> str:
    """Let the index refer to a file outside, to an unknown tensor, or omit one; or replace the index."""
    file = folder / "model.safetensors.index.json"
    content = json.loads(file.read_text())
    name = draw.choice(sorted(content["weight_map"]))
    kind = draw.randrange(4)
    if kind == 0:
        content["weight_map"][name] = draw.choice(_INVALID_PATHS)
    elif kind == 1:
        # Without its file it is a complete model, but not the adapter's base.
        del content["weight_map"][name]
        file.write_text(json.dumps(content))
        return name.removesuffix(".weight")
    elif kind == 2:
        content["weight_map"]["another"] = content["weight_map"][name]
    else:
        content = draw.choice([[], {}, {"weight_map": None}, {"weight_map": []}, {"weight_map": {}}, 3, "x"])
    file.write_text(json.dumps(content))
    return "safetensors"


def adapter(draw: random.Random, folder: Path) -> str:
    """Rename a tensor of the adapter, so that it matches no parameter."""
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    name = draw.choice([key for key in header if key != "__metadata__"])
    other = draw.choice(["base_model.model.nowhere.weight", "w", f"{name}.more", name.replace("q_proj", "z_proj"), ""])
    header = {other if key == name else key: value for key, value in header.items()}
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + content[end:])
    return "dapter"


def adapter_config(draw: random.Random, folder: Path) -> str:
    """Replace the adapter's config by an invalid one."""
    file = folder / "adapter_config.json"
    file.write_text(draw.choice(["", "[]", "{", "null", '{"r": 0}', '{"r": "x"}', '{"peft_type": "LORA"}', '"' * 9]))
    return "dapter"


def metadata(draw: random.Random, folder: Path) -> str:
    """Change some bytes of a checkpoint's pickle."""
    file = folder / ".metadata"
    content = bytearray(file.read_bytes())
    for _ in range(draw.randint(1, 6)):
        _edit(draw, content, len(content))
    file.write_bytes(content)
    return ".metadata"


def canary(draw: random.Random, folder: Path) -> str:
    """Insert a pickle that creates a folder when it is loaded, alone or before the intact one."""
    file = folder / draw.choice([".metadata", "__0_0.distcp"])
    call = draw.choice([os.mkdir, os.makedirs])
    ran = folder.parent / "ran"

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return call, (str(ran),)

    bad = pickle.dumps(draw.choice([Canary(), [Canary()], {"state_dict_metadata": Canary()}]), draw.randrange(6))
    good = file.read_bytes()
    if file.name == ".metadata" and draw.random() < 0.5:
        bad = bad[:-1] + good  # its opcodes without STOP
    file.write_bytes(bad if file.name == ".metadata" else bad + good[len(bad) :])
    return file.name


def tensor_file(draw: random.Random, folder: Path) -> str:
    """Change some bytes of a rank's tensors, or truncate the file."""
    file = folder / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    if draw.random() < 0.3:
        del content[draw.randrange(len(content)) :]
    for _ in range(draw.randint(1, 8)):
        _edit(draw, content, len(content))
    file.write_bytes(content)
    return ".distcp"


def sharding(draw: random.Random, folder: Path) -> str:
    """Remove or change the offsets in a rank's safetensors file, or change some bytes of its header."""
    file = folder / f"shard-{draw.randint(1, 2):05d}-model-00001-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    if draw.random() < 0.5:
        _edit(draw, content, end)
    else:
        header = json.loads(content[8:end])
        places = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
        places[draw.choice(sorted(places))] = draw.choice(
            [*_INVALID_VALUES, *({"saved_offsets": value} for value in (*_INVALID_VALUES, [3, 0], [1 << 40, 0]))]
        )
        header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(places)
        raw = json.dumps(header).encode()
        content[:end] = len(raw).to_bytes(8, "little") + raw
    file.write_bytes(content)
    return "shard-"


def missing_file(draw: random.Random, folder: Path) -> str:
    """Remove a file of the checkpoint."""
    file = draw.choice([".metadata", "__0_0.distcp"])
    (folder / file).unlink()
    return file


def rank_state(draw: random.Random, folder: Path) -> str:
    """Change some bytes of a rank's state, or truncate the file."""
    file = draw.choice(sorted((folder / "adapter_shards/model").glob("*.pt")))
    content = bytearray(file.read_bytes())
    if draw.random() < 0.3:
        del content[draw.randrange(len(content)) :]
    for _ in range(draw.randint(1, 8)):
        _edit(draw, content, len(content))
    file.write_bytes(content)
    return file.name


def rank_metadata(draw: random.Random, folder: Path) -> str:
    """Set a field of the shards' metadata to an invalid value."""
    file = folder / "adapter_shards/mp_metadata_pp_rank_0.json"
    content = json.loads(file.read_text())
    module = content["model_weight_transformation_specs"][draw.randrange(2)]
    invalid = draw.choice(_INVALID_VALUES)
    kind = draw.randrange(4)
    if kind == 0:
        spec = module["specs"][0][1]
        spec[draw.choice(sorted(spec))] = invalid
    elif kind == 1:
        module["specs"][0] = draw.choice([invalid, ["Other", {}], ["FusedLinearsSpec"], []])
    elif kind == 2:
        parameter = content["parameters"][draw.choice(sorted(content["parameters"]))]
        parameter[draw.choice(["tensor_model_parallel", "partition_dim", "num_partitions"])] = invalid
    else:
        content[draw.choice(sorted(content))] = invalid
    file.write_text(json.dumps(content))
    return "adapter_shards/"


def missing_rank_file(draw: random.Random, folder: Path) -> str:
    """Remove a file of a rank."""
    file = draw.choice(
        sorted(path for path in (folder / "adapter_shards").rglob("*") if path.name[-3:] in (".pt", "one"))
    )
    file.unlink()
    return file.name


def rank_canary(draw: random.Random, folder: Path) -> str:
    """Replace a pickle of a rank by one that creates a folder when it is loaded."""
    file = draw.choice(sorted((folder / "adapter_shards/model").rglob("*.pt")))
    ran = folder.parent / "ran"

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(ran),)

    torch.save(draw.choice([Canary(), {"a": Canary()}, [Canary()]]), file)
    return file.name


MODEL: tuple[Damage, ...] = (header_bytes, header_field, header_length, truncated_shard, index)
ADAPTER: tuple[Damage, ...] = (adapter, adapter_config)
CHECKPOINT: tuple[Damage, ...] = (metadata, canary, tensor_file, missing_file)
SHARDS: tuple[Damage, ...] = (sharding,)
RANKS: tuple[Damage, ...] = (rank_state, rank_metadata, missing_rank_file, rank_canary)


def _edit(draw: random.Random, content: bytearray, end: int) -> None:
    place = draw.randrange(max(1, min(end, len(content)) or 1))
    kind = draw.randrange(3)
    if kind == 0 and place < len(content):
        content[place] = draw.randrange(256)
    elif kind == 1:
        del content[place : place + draw.randint(1, 8)]
    else:
        content[place:place] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
