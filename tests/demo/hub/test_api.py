"""The local Hub, tested with the real client: it responds to a stage's requests as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from demo.hub.repository import publish
from demo.hub.server import Hub
from tests.support.hub_repositories import FILES, MODEL, READER, STRANGER, WEIGHTS, read_files


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    return subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True).stdout.decode().strip()


class TestRepositoryInfo:
    def test_contains_the_commit_and_the_files(self, api: HfApi, root: Path) -> None:
        info = api.model_info(MODEL)
        assert (info.id, info.private, info.gated) == (MODEL, False, False)
        assert info.sha
        assert len(info.sha) == 40
        assert {sibling.rfilename for sibling in info.siblings or []} == set(FILES)
        assert api.dataset_info("airsmith/data").sha == info.sha  # the same content

    def test_contains_sizes_and_digests_if_requested(self, api: HfApi) -> None:
        files = {file.rfilename: file for file in api.model_info(MODEL, files_metadata=True).siblings or []}
        assert files["config.json"].lfs is None
        assert files["config.json"].blob_id == git_blob(FILES["config.json"])
        assert files["model.safetensors"].size == len(WEIGHTS)
        assert files["model.safetensors"].lfs.sha256 == sha256(WEIGHTS)

    def test_contains_only_the_requested_fields(self, api: HfApi) -> None:
        info = api.model_info(MODEL, expand=["sha", "gated"])
        assert info.sha
        assert info.gated is False
        assert info.siblings is None

    def test_resolves_a_branch_with_a_slash_and_a_commit(self, api: HfApi) -> None:
        pull = api.model_info(MODEL, revision="refs/pr/1")
        assert {sibling.rfilename for sibling in pull.siblings or []} == {"a/b c.txt"}
        assert api.model_info(MODEL, revision=pull.sha).sha == pull.sha
        refs = {branch.name: branch.target_commit for branch in api.list_repo_refs(MODEL).branches}
        assert refs == {"main": api.model_info(MODEL).sha, "refs/pr/1": pull.sha}

    def test_missing_repository_and_missing_revision_are_different_errors(self, api: HfApi, hub: Hub) -> None:
        with pytest.raises(RepositoryNotFoundError) as anonymous:
            api.model_info("airsmith/nothing")
        assert anonymous.value.response.status_code == 401
        with pytest.raises(RepositoryNotFoundError) as known:
            api.model_info("airsmith/nothing", token=READER)
        assert known.value.response.status_code == 404
        with pytest.raises(RepositoryNotFoundError):
            api.dataset_info(MODEL)
        with pytest.raises(RevisionNotFoundError):
            api.model_info(MODEL, revision="0" * 40)
        with pytest.raises(RevisionNotFoundError):
            list(api.list_repo_tree(MODEL, revision="gone"))


class TestTree:
    def test_lists_files_and_folders(self, api: HfApi) -> None:
        entries = {entry.path: entry for entry in api.list_repo_tree(MODEL, recursive=True, expand=True)}
        assert set(entries) == {*FILES, "onnx", "onnx/a"}
        assert isinstance(entries["onnx"], RepoFolder)
        weights = entries["model.safetensors"]
        assert isinstance(weights, RepoFile)
        assert weights.lfs
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(WEIGHTS)}\nsize {len(WEIGHTS)}\n"
        assert weights.blob_id == git_blob(pointer.encode())
        assert (weights.lfs.sha256, weights.lfs.size, weights.lfs.pointer_size) == (
            sha256(WEIGHTS),
            len(WEIGHTS),
            len(pointer),
        )
        assert weights.last_commit
        assert weights.last_commit.oid == api.model_info(MODEL).sha

    def test_lists_one_level_or_one_folder(self, api: HfApi) -> None:
        assert [entry.path for entry in api.list_repo_tree(MODEL)] == ["config.json", "model.safetensors", "onnx"]
        assert [entry.path for entry in api.list_repo_tree(MODEL, "onnx/a")] == ["onnx/a/b c.txt"]
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(MODEL, "nowhere"))

    def test_a_long_listing_is_paginated(self, api: HfApi, root: Path, tmp_path: Path) -> None:
        for number in range(1001):
            (tmp_path / f"{number:04}").touch()
        publish(root, "dataset", "airsmith/many", tmp_path)
        entries = api.list_repo_tree("airsmith/many", repo_type="dataset")
        assert [entry.path for entry in entries] == sorted(path.name for path in tmp_path.iterdir())

    def test_a_page_has_the_requested_length(self, hub: Hub) -> None:
        page = get_session().get(f"{hub.url}/api/models/{MODEL}/tree/main", params={"limit": 2})
        assert len(page.json()) == 2
        following = get_session().get(page.links["next"]["url"])
        assert [entry["path"] for entry in following.json()] == ["onnx"]
        assert "next" not in following.links

    def test_known_paths_are_described_and_unknown_ones_omitted(self, api: HfApi) -> None:
        described = api.get_paths_info(MODEL, ["onnx", "config.json", "nowhere"], expand=True)
        assert {entry.path: type(entry) for entry in described} == {"onnx": RepoFolder, "config.json": RepoFile}


class TestDownload:
    def test_a_snapshot_equals_the_published_files(self, api: HfApi, tmp_path: Path) -> None:
        assert read_files(api.snapshot_download(MODEL, cache_dir=tmp_path)) == FILES
        target = api.snapshot_download("airsmith/data", repo_type="dataset", local_dir=tmp_path / "data")
        assert read_files(target) == FILES

    def test_metadata_of_an_lfs_file_redirects_to_another_origin(self, api: HfApi, hub: Hub) -> None:
        metadata = get_hf_file_metadata(hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url), token=False)
        assert (metadata.etag, metadata.size) == (sha256(WEIGHTS), len(WEIGHTS))
        assert metadata.commit_hash == api.model_info(MODEL).sha
        assert "/_storage/" in metadata.location
        assert not metadata.location.startswith(hub.url)
        assert metadata.xet_file_data is None

    def test_metadata_of_a_small_file_does_not_redirect(self, hub: Hub) -> None:
        url = hf_hub_url(MODEL, "config.json", endpoint=hub.url)
        metadata = get_hf_file_metadata(url, token=False)
        assert (metadata.etag, metadata.size) == (git_blob(FILES["config.json"]), len(FILES["config.json"]))
        assert metadata.location == url

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_a_range_request_returns_part_of_the_file(self, hub: Hub, name: str) -> None:
        url = hf_hub_url(MODEL, name, endpoint=hub.url)
        part = get_session().get(url, headers={"Range": "bytes=5-11"})
        assert (part.status_code, part.content) == (206, FILES[name][5:12])
        assert part.headers["Content-Range"] == f"bytes 5-11/{len(FILES[name])}"
        assert get_session().get(url, headers={"Range": "bytes=999999-"}).status_code == 416

    def test_storage_requires_a_signed_url(self, hub: Hub) -> None:
        location = get_hf_file_metadata(hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url), token=False).location
        assert get_session().get(location).content == WEIGHTS
        assert get_session().get(location.replace("signature=", "signature=0")).status_code == 403

    def test_a_missing_file_is_named(self, api: HfApi) -> None:
        with pytest.raises(EntryNotFoundError, match=r"nothing\.json"):
            api.hf_hub_download(MODEL, "nothing.json")
        assert not api.file_exists(MODEL, "nothing.json")


class TestAccess:
    def test_a_private_repository_is_visible_only_to_its_readers(self, api: HfApi, tmp_path: Path) -> None:
        for token, status in ((False, 401), (STRANGER, 404)):
            with pytest.raises(RepositoryNotFoundError) as error:
                api.model_info("airsmith/private", token=token)
            assert error.value.response.status_code == status
        assert api.model_info("airsmith/private", token=READER).private
        assert read_files(api.snapshot_download("airsmith/private", token=READER, cache_dir=tmp_path)) == FILES

    def test_a_gated_repository_is_visible_to_all_and_readable_by_its_readers(self, api: HfApi, tmp_path: Path) -> None:
        assert api.model_info("airsmith/gated").gated == "manual"
        for token, status in ((False, 401), (STRANGER, 403)):
            with pytest.raises(GatedRepoError) as error:
                api.hf_hub_download("airsmith/gated", "config.json", token=token, cache_dir=tmp_path)
            assert error.value.response.status_code == status
            with pytest.raises(GatedRepoError):
                api.auth_check("airsmith/gated", token=token)
        api.auth_check("airsmith/gated", token=READER)
        assert read_files(api.snapshot_download("airsmith/gated", token=READER, cache_dir=tmp_path)) == FILES

    def test_an_unknown_token_is_an_authentication_error(self, api: HfApi) -> None:
        assert api.whoami(token=READER)["name"] == "reader"
        for call in (api.whoami, lambda token: api.model_info(MODEL, token=token)):
            with pytest.raises(HfHubHTTPError) as error:
                call(token="hf_unknown")
            assert error.value.response.status_code == 401
            assert not isinstance(error.value, RepositoryNotFoundError)
