"""A local Hub with repositories in every state that a recipe may meet, and a recipe that names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from airsmith.settings import LocalSettings, Settings
from demo.hub.repository import add_user, publish
from demo.hub.server import Hub, serve

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 600,
}  # fmt: skip
LIBRARIES = (
    "torch", "transformers", "tokenizers", "datasets", "peft", "accelerate", "numpy", "optimum-neuron", "neuronx-cc",
    "torch-neuronx",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_token_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture(scope="session")
def token() -> str:
    """Opens the gated and the private model."""
    return "hf_reader"


@pytest.fixture(scope="session")
def hub(token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub that serves a public, a gated and a private model, one that has sizes, and a dataset."""
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("repository")
    (folder / "config.json").write_text("{}")
    publish(root, "model", "demo/model", folder)
    publish(root, "model", "demo/gated", folder, gated=True, readers=["reader"])
    publish(root, "model", "demo/private", folder, private=True, readers=["reader"])
    publish(root, "dataset", "demo/data", folder)
    (folder / "config.json").write_text(json.dumps(LLAMA))
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
    """A virtual environment's layout with the metadata of what the stages need, and nothing that could run."""
    root = tmp_path_factory.mktemp("stages")
    for name in LIBRARIES:
        metadata = root / "lib" / "python3.11" / "site-packages" / f"{name}-1.2.3.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    python = root / "bin" / "python"
    python.parent.mkdir()
    python.touch(mode=0o755)
    return python


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe file, and gives its path."""

    def write(name: str = "tickets", **sections: object) -> Path:
        content = {
            "model": {"id": "demo/model"},
            "dataset": {"id": "demo/data", "validation_split": "validation"},
            "training": {"max_steps": 5, "total_train_batch_size": 8},
        }
        file = tmp_path / "recipes" / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump({**content, **sections}))
        return file

    return write
