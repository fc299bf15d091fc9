"""Publishing the demo's model and dataset is reproducible, and a second call publishes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from demo import DATASET_ID, MODEL_ID
from demo.hub.repository import load_repository, publish
from demo.hub.server import serve
from demo.publish import publish_demo
from demo.ticket_triage import DATA
from demo.tiny_llama import build_tiny_llama


def run_publish(root: Path, *python_options: str) -> dict[str, str]:
    """Publish in a new process.

    :returns: repository id -> commit id.
    """
    command = [sys.executable, *python_options, "-m", "demo.publish", "--root", str(root)]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split() for line in completed.stdout.splitlines())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("root")
    return root, run_publish(root)


def test_the_hub_serves_the_published_repositories(published: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, commits = published
    with serve(root) as hub:
        api = HfApi(hub.url, token=False)
        assert api.model_info(MODEL_ID).sha == commits[MODEL_ID]
        assert api.dataset_info(DATASET_ID).sha == commits[DATASET_ID]
        folder = Path(api.snapshot_download(DATASET_ID, repo_type="dataset", cache_dir=tmp_path))
        assert {path.name for path in folder.iterdir()} == {"README.md", "train.jsonl", "validation.jsonl"}


def test_another_process_builds_the_same_model(published: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    build_tiny_llama(tmp_path / "model", DATA / "train.jsonl")
    assert publish(tmp_path / "root", "model", MODEL_ID, tmp_path / "model") == published[1][MODEL_ID]


def test_a_second_call_publishes_nothing_and_does_not_import_torch(published: tuple[Path, dict[str, str]]) -> None:
    root, commits = published
    before = {path: path.stat().st_mtime_ns for path in (root / "objects").iterdir()}
    code = (
        "import sys; from pathlib import Path; from demo.publish import publish_demo\n"
        f"commits = publish_demo(Path({str(root)!r})); assert commits == {commits!r}, commits\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for kind, repo_id in (("model", MODEL_ID), ("dataset", DATASET_ID)):
        repository = load_repository(root, kind, repo_id)
        assert repository is not None
        assert list(repository.commits) == [commits[repo_id]]


def test_a_missing_or_replaced_model_is_published_again(published: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, commits = published
    (tmp_path / "a.txt").write_text("not a model")
    publish(root, "model", MODEL_ID, tmp_path)
    assert publish_demo(root) == commits
    (root / "models" / f"{MODEL_ID}.json").unlink()
    assert publish_demo(root) == commits
