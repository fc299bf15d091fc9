"""The implementations that `benchmarks.merge` compares: `python -m benchmarks.merge_arms FUNCTION …`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path


def folder_to_folder(base: str, adapter: str, output: str) -> None:
    """Airsmith's merge without the store and without hashing."""
    from airsmith_stages.merging.model import merge_model
    from airsmith_stages.weights.readers import FolderReader

    folder = Path(output)
    folder.mkdir(parents=True)

    def write(name: str, pieces: Iterable[bytes | memoryview], size_bytes: int) -> None:
        with (folder / name).open("wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)

    print(merge_model(FolderReader(Path(base)), FolderReader(Path(adapter)), write, max_shard_bytes=500_000_000))


def artifact_to_artifact(store: str, base: str, adapter: str, output: str) -> None:
    """Airsmith's merge as in the stage: it verifies the input and hashes the output."""
    from airsmith.artifacts.publish import write_artifact
    from airsmith.artifacts.read import open_artifact
    from airsmith.artifacts.store import Store
    from airsmith_stages.memory import use_one_malloc_arena
    from airsmith_stages.merging.model import merge_model
    from airsmith_stages.weights.readers import ArtifactReader, FolderReader

    use_one_malloc_arena()
    opened = Store.open(store)
    artifact = open_artifact(opened, base)
    assert artifact is not None
    with write_artifact(opened, output, type="model", digest="merged", inputs={}, versions={}) as writer:
        report = merge_model(
            ArtifactReader(artifact), FolderReader(Path(adapter)), writer.add_stream, max_shard_bytes=500_000_000
        )
        writer.publish()
    print(report)


def folder_to_artifact(folder: str, store: str, output: str) -> None:
    """Publish a base model to merge into. Not an arm."""
    from airsmith.artifacts.publish import write_artifact
    from airsmith.artifacts.store import Store

    with write_artifact(Store.open(store), output, type="base_model", digest="base", inputs={}, versions={}) as writer:
        writer.add_folder(Path(folder))
        writer.publish()


def peft(base: str, adapter: str, output: str) -> None:
    """The usual code with peft: load, merge, save."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output, max_shard_size="500MB")


if __name__ == "__main__":
    functions = (folder_to_folder, artifact_to_artifact, folder_to_artifact, peft)
    {function.__name__: function for function in functions}[sys.argv[1]](*sys.argv[2:])
