"""Airflow's home in a temporary folder, a local Hub, recipes and runs."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.settings import LocalSettings, Settings
from demo.hub.repository import add_user, publish
from demo.hub.server import Hub, serve
from tests.support.environments import stage_settings, write_distributions
from tests.support.recipes import pinned_recipe
from tests.support.runs import new_run

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airsmith-airflow-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A resolved run in a local store; `mirror_model` and `mirror_dataset` can start."""
    dataset = {"id": "demo/ticket-triage", "revision": "b" * 40, "validation_split": "validation"}
    return new_run(Store.open(f"file://{tmp_path}/store"), recipe=pinned_recipe(dataset=dataset))


@pytest.fixture
def stages_that(tmp_path: Path) -> Callable[..., Settings]:
    """Settings whose stages run the given Python code, on the store of `run`."""
    return lambda code, **local: stage_settings(tmp_path, code, **local)


TINY_LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 600,
}  # fmt: skip
LIBRARIES = (
    "torch", "transformers", "tokenizers", "datasets", "peft", "accelerate", "numpy", "optimum-neuron", "neuronx-cc",
    "torch-neuronx",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _without_hf_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture(scope="session")
def token() -> str:
    """A token that gives access to the gated and the private model."""
    return "hf_reader"


@pytest.fixture(scope="session")
def hub(token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with a public, a gated and a private model, a model with a real config, and a dataset."""
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("repository")
    (folder / "config.json").write_text("{}")
    publish(root, "model", "demo/model", folder)
    publish(root, "model", "demo/gated", folder, gated=True, readers=["reader"])
    publish(root, "model", "demo/private", folder, private=True, readers=["reader"])
    publish(root, "dataset", "demo/data", folder)
    (folder / "config.json").write_text(json.dumps(TINY_LLAMA))
    publish(root, "model", "demo/llama", folder, gated=True, readers=["reader"])
    add_user(root, "reader", token)
    with serve(root) as hub:
        yield hub


@pytest.fixture
def settings(tmp_path: Path, hub: Hub, stages_python: Path) -> Settings:
    return Settings(
        store=f"file://{tmp_path}/store", hub_endpoint=hub.url, local=LocalSettings(stages_python=stages_python)
    )


@pytest.fixture(scope="session")
def stages_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the metadata of the stages' libraries, and cannot run."""
    root = tmp_path_factory.mktemp("stages")
    write_distributions(root, *LIBRARIES, version="1.2.3")
    python = root / "bin" / "python"
    python.parent.mkdir()
    python.touch(mode=0o755)
    return python


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe file of these sections and returns its path."""

    def write(name: str = "tickets", **sections: object) -> Path:
        content = {
            "model": {"id": "demo/model"},
            "dataset": {"id": "demo/data", "validation_split": "validation"},
            "training": {"max_steps": 5, "total_train_batch_size": 8},
        }
        path = tmp_path / "recipes" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({**content, **sections}))
        return path

    return write
