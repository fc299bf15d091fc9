"""Fixtures of all tests of the stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Test workers share the cores, and models this small gain nothing from a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from airsmith.contracts.run import Run
from tests.support.data_stages import DATASET_ID, MODEL_ID, DataStages
from tests.support.dataset_files import chats, read_files
from tests.support.stage_commands import StageForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[StageForkServer]:
    with StageForkServer.start() as server:
        yield server


@pytest.fixture
def data_stages(tmp_path: Path, fork_server: StageForkServer) -> DataStages:
    return DataStages(tmp_path, fork_server)


@pytest.fixture(scope="session")
def base_model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A base model with a tokenizer and about 3 MB of weights."""
    from tests.support import chat_tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    chat_tokenizers.chatml_tokenizer().save_pretrained(folder)
    weights = bytes(range(256)) * 12_000
    return {"config.json": b'{"model_type": "llama"}', "model.safetensors": weights, **read_files(folder)}


@pytest.fixture
def ready_run(data_stages: DataStages, base_model_files: dict[str, bytes]) -> Callable[[str], Run]:
    """Creates a run in which a data stage can start; a mirror also needs the Hub."""
    dataset = {
        "train.jsonl": chats((f"The kettle {number} is cold.", "x" * 40) for number in range(200)),
        "validation.jsonl": chats([("Where is my bill?", "billing")]),
    }

    def create(stage: str) -> Run:
        if stage == "tokenize":
            run = data_stages.new_run(dataset={"max_length": 64})
            data_stages.publish_output(run, "mirror_model", base_model_files)
            data_stages.publish_output(run, "mirror_dataset", dataset)
            return run
        return data_stages.new_run(
            model={"revision": data_stages.publish_to_hub("model", MODEL_ID, base_model_files)},
            dataset={"revision": data_stages.publish_to_hub("dataset", DATASET_ID, dataset)},
        )

    return create


@pytest.fixture
def artifacts(tmp_path: Path):
    # Imports torch, which most tests of data need not load.
    from tests.support.model_artifacts import ModelArtifacts

    return ModelArtifacts(tmp_path)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Returns the folder of the demo's base model with its tokenizer, built on first use."""
    folder = tmp_path_factory.mktemp("tiny-llama")

    def build() -> Path:
        from demo.tiny_llama import build_tiny_llama

        if not (folder / "config.json").exists():
            build_tiny_llama(folder, ["user", "assistant", "system", "The kettle is cold. ", "yes no"])
        return folder

    return build
