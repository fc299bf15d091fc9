"""For the stages' tests: their package comes first, and what several of them share is made once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# This folder has the name of the package that it tests, and the installed one is found later on Python's path.
sys.path.insert(0, str(Path(__file__).parents[2] / "containers"))
# Two test workers share two cores, and what is tested here is too small for a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from data_fixtures import Bench
from stage_zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Runs the stages' command in processes that have its libraries loaded."""
    with Zygote.started() as zygote:
        yield zygote


@pytest.fixture
def bench(tmp_path: Path, zygote: Zygote) -> Bench:
    """A store, a Hub's folder and runs on them."""
    return Bench(tmp_path, zygote)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The demo's base model with its tokenizer, made where it is first asked for."""
    folder = tmp_path_factory.mktemp("tiny-llama")

    def build() -> Path:
        from demo.tiny_llama import build_tiny_llama

        if not (folder / "config.json").exists():
            build_tiny_llama(folder, ["user", "assistant", "system", "The kettle is cold. ", "yes no"])
        return folder

    return build
