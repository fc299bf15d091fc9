"""Publishing to the folder of a local Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from demo.hub.repository import publish
from demo.hub.server import serve
from tests.support.hub_repositories import MODEL, read_files


def test_the_same_content_gives_the_same_commit(folder: Path, tmp_path: Path) -> None:
    first = publish(tmp_path, "model", MODEL, folder)
    before = read_files(tmp_path)
    assert publish(tmp_path, "model", MODEL, folder) == first
    assert read_files(tmp_path) == before


def test_older_commits_are_kept(tmp_path: Path) -> None:
    folder, root = tmp_path / "folder", tmp_path / "root"
    folder.mkdir()
    shas = []
    for text in ("one", "two"):
        (folder / "a.txt").write_text(text)
        shas.append(publish(root, "dataset", "airsmith/data", folder))
    with serve(root) as hub:
        api = HfApi(hub.url, token=False)
        assert api.dataset_info("airsmith/data").sha == shas[1]
        old = api.hf_hub_download(
            "airsmith/data", "a.txt", repo_type="dataset", revision=shas[0], cache_dir=tmp_path / "cache"
        )
        assert Path(old).read_text() == "one"


def test_invalid_input_is_named_in_the_error(folder: Path, tmp_path: Path) -> None:
    for repo_id in ("plain", "../up/there", "a/../b", "a/.hidden"):
        with pytest.raises(ValueError, match="owner/name"):
            publish(tmp_path / "root", "model", repo_id, folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty contains no files"):
        publish(tmp_path / "root", "model", MODEL, tmp_path / "empty")
    assert not (tmp_path / "root").exists()
