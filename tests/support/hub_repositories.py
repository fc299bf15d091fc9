"""Repositories for tests of the local Hub."""

from __future__ import annotations

from pathlib import Path

from demo.hub.repository import add_user, publish

MODEL = "airsmith/model"
READER, STRANGER = "hf_reader", "hf_stranger"
"""Tokens of two users; only the first may read the private and the gated repository."""

WEIGHTS = bytes(range(256)) * 2000
FILES = {"config.json": b'{"model_type": "llama"}\n', "model.safetensors": WEIGHTS, "onnx/a/b c.txt": b"nested\n"}


def write_files(folder: Path) -> None:
    """Write `FILES`."""
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def read_files(folder: str | Path) -> dict[str, bytes]:
    """All files of a folder by path, without those in `.cache`."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def publish_repositories(root: Path, folder: Path) -> None:
    """Publish the folder as a public, a private and a gated model and as a dataset, and add two users."""
    publish(root, "model", MODEL, folder)
    publish(root, "model", MODEL, folder / "onnx", revision="refs/pr/1")
    publish(root, "dataset", "airsmith/data", folder)
    publish(root, "model", "airsmith/private", folder, private=True, readers=["reader"])
    publish(root, "model", "airsmith/gated", folder, gated=True, readers=["reader"])
    add_user(root, "reader", READER)
    add_user(root, "stranger", STRANGER)
