"""Fixtures of all tests of the stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Test workers share the cores, and models this small gain nothing from a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tests.support.data_stages import DataStages
from tests.support.stage_commands import StageForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[StageForkServer]:
    with StageForkServer.start() as server:
        yield server


@pytest.fixture
def data_stages(tmp_path: Path, fork_server: StageForkServer) -> DataStages:
    return DataStages(tmp_path, fork_server)


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
