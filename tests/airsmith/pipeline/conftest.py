"""A local Hub with public, gated and private repositories, and recipes that refer to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from airsmith.settings import LocalSettings, Settings
from demo.hub.repository import add_user, publish
from demo.hub.server import Hub, serve
from tests.support.environments import write_distributions

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
