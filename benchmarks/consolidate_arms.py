"""The implementations that `benchmarks.consolidate` compares: `python -m benchmarks.consolidate_arms FUNCTION …`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airsmith_stages.consolidating.checkpoint import ShardedCheckpoint

MAX_SHARD_BYTES = 500_000_000


def dcp_to_folder(checkpoint: str, output: str) -> None:
    """Airsmith on a DCP checkpoint, without the store and without hashing."""
    from airsmith_stages.consolidating.dcp import read_dcp
    from airsmith_stages.weights.readers import FolderReader

    _to_folder(read_dcp(FolderReader(Path(checkpoint))), Path(output))


def hugging_face_to_folder(checkpoint: str, output: str, ranks: str) -> None:
    """Airsmith on Hugging Face shards, without the store and without hashing."""
    from airsmith_stages.consolidating.hugging_face import read_hugging_face
    from airsmith_stages.weights.readers import FolderReader

    _to_folder(read_hugging_face(FolderReader(Path(checkpoint)), int(ranks)), Path(output))


def artifact_to_artifact(store: str, checkpoint: str, output: str) -> None:
    """Airsmith as in the stage: it verifies the input and hashes the output."""
    from airsmith.artifacts.publish import write_artifact
    from airsmith.artifacts.read import open_artifact
    from airsmith.artifacts.store import Store
    from airsmith_stages.consolidating.artifacts import consolidate_artifact
    from airsmith_stages.consolidating.dcp import read_dcp

    opened = Store.open(store)
    artifact = open_artifact(opened, checkpoint)
    assert artifact is not None
    with write_artifact(opened, output, type="model", digest="whole", inputs={}, versions={}) as writer:
        consolidate_artifact(artifact, read_dcp, writer, max_shard_bytes=MAX_SHARD_BYTES)
        writer.publish()


def torch(checkpoint: str, output: str, placed: str) -> None:
    """torch's function, with one thread per core (2)."""
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files

    Path(output).mkdir()
    consolidate_safetensors_files(checkpoint, output, json.loads(Path(placed).read_text()), num_threads=2)


def _to_folder(checkpoint: ShardedCheckpoint, folder: Path) -> None:
    from airsmith_stages.consolidating.assembly import consolidate

    folder.mkdir(parents=True)

    def write(name: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        with (folder / name).open("wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)

    consolidate(checkpoint, write, max_shard_bytes=MAX_SHARD_BYTES)


if __name__ == "__main__":
    functions = (dcp_to_folder, hugging_face_to_folder, artifact_to_artifact, torch)
    {function.__name__: function for function in functions}[sys.argv[1]](*sys.argv[2:])
