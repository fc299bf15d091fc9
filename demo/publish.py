"""Publish the demo's model and dataset to the local Hub: `python -m demo.publish --root DIR`."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from demo import DATASET_ID, MODEL_ID
from demo.hub.repository import Kind, load_repository, publish, write_atomically
from demo.ticket_triage import DATA

MODEL_SOURCES = (Path(__file__).parent / "tiny_llama.py", Path(__file__).parent / "chat_template.jinja")
MODEL_LIBRARIES = ("torch", "transformers", "tokenizers")
CORPUS = DATA / "train.jsonl"


def main() -> None:
    """Publish the missing repositories, and print all commit ids."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.publish", description="Publish the demo's model and dataset to the local Hub."
    )
    parser.add_argument("--root", type=Path, required=True, help="folder that demo.hub serves")
    for repo_id, commit_id in publish_demo(parser.parse_args().root).items():
        print(f"{repo_id} {commit_id}")


def publish_demo(root: Path) -> dict[str, str]:
    """Publish the model and the dataset; the model is rebuilt only if its sources have changed.

    :returns: repository id -> commit id.
    """
    record = root / "published.json"
    sources_digest = _digest_of_sources()
    published: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if published.get("sources_digest") != sources_digest or not _is_newest(root, "model", MODEL_ID, published["model"]):
        published = {"sources_digest": sources_digest, "model": _publish_model(root)}
        write_atomically(record, json.dumps(published))
    return {MODEL_ID: published["model"], DATASET_ID: publish(root, "dataset", DATASET_ID, DATA)}


def _digest_of_sources() -> str:
    """Digest of all inputs of the model's files. It imports no library, so that a second call takes no seconds."""
    digest = hashlib.sha256()
    for source in (*MODEL_SOURCES, CORPUS):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    digest.update(json.dumps({name: version(name) for name in MODEL_LIBRARIES}).encode())
    return digest.hexdigest()


def _is_newest(root: Path, kind: Kind, repo_id: str, commit_id: str) -> bool:
    repository = load_repository(root, kind, repo_id)
    return repository is not None and repository.resolve("main") == commit_id


def _publish_model(root: Path) -> str:
    from demo.tiny_llama import build_tiny_llama  # imports torch

    with tempfile.TemporaryDirectory() as folder:
        build_tiny_llama(Path(folder), CORPUS)
        return publish(root, "model", MODEL_ID, Path(folder))


if __name__ == "__main__":
    main()
