"""The local Hub, tested with the real client: it responds to a stage's requests as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from demo.hub.faults import CutConnection, Refuse, WrongByte
from demo.hub.repository import add_user, publish
from demo.hub.server import Hub, serve

MODEL = "airsmith/model"
READER, STRANGER = "hf_reader", "hf_stranger"
WEIGHTS = bytes(range(256)) * 2000
FILES = {"config.json": b'{"model_type": "llama"}\n', "model.safetensors": WEIGHTS, "onnx/a/b c.txt": b"nested\n"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    root = tmp_path_factory.mktemp("root")
    publish(root, "model", MODEL, folder)
    publish(root, "model", MODEL, folder / "onnx", revision="refs/pr/1")
    publish(root, "dataset", "airsmith/data", folder)
    publish(root, "model", "airsmith/private", folder, private=True, readers=["reader"])
    publish(root, "model", "airsmith/gated", folder, gated=True, readers=["reader"])
    add_user(root, "reader", READER)
    add_user(root, "stranger", STRANGER)
    return root


@pytest.fixture(scope="module")
def hub(root: Path) -> Iterator[Hub]:
    with serve(root) as hub:
        yield hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(hub.url, token=False)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    return subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True).stdout.decode().strip()


def contents(folder: str | Path) -> dict[str, bytes]:
    files = (path for path in Path(folder).rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


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
        assert contents(api.snapshot_download(MODEL, cache_dir=tmp_path)) == FILES
        target = api.snapshot_download("airsmith/data", repo_type="dataset", local_dir=tmp_path / "data")
        assert contents(target) == FILES

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
        assert contents(api.snapshot_download("airsmith/private", token=READER, cache_dir=tmp_path)) == FILES

    def test_a_gated_repository_is_visible_to_all_and_readable_by_its_readers(self, api: HfApi, tmp_path: Path) -> None:
        assert api.model_info("airsmith/gated").gated == "manual"
        for token, status in ((False, 401), (STRANGER, 403)):
            with pytest.raises(GatedRepoError) as error:
                api.hf_hub_download("airsmith/gated", "config.json", token=token, cache_dir=tmp_path)
            assert error.value.response.status_code == status
            with pytest.raises(GatedRepoError):
                api.auth_check("airsmith/gated", token=token)
        api.auth_check("airsmith/gated", token=READER)
        assert contents(api.snapshot_download("airsmith/gated", token=READER, cache_dir=tmp_path)) == FILES

    def test_an_unknown_token_is_an_authentication_error(self, api: HfApi) -> None:
        assert api.whoami(token=READER)["name"] == "reader"
        for call in (api.whoami, lambda token: api.model_info(MODEL, token=token)):
            with pytest.raises(HfHubHTTPError) as error:
                call(token="hf_unknown")
            assert error.value.response.status_code == 401
            assert not isinstance(error.value, RepositoryNotFoundError)


class TestFaults:
    def test_rate_limited_requests_succeed_later(self, root: Path, tmp_path: Path) -> None:
        reject = Refuse("*/resolve/main/config.json", times=1, retry_after_seconds=0)
        with serve(root, reject, Refuse("/api/models/*", times=1, retry_after_seconds=7)) as hub:
            api = HfApi(hub.url, token=False)
            with pytest.raises(HfHubHTTPError) as error:
                api.model_info(MODEL)
            assert error.value.response.status_code == 429
            assert error.value.response.headers["Retry-After"] == "7"
            path = api.hf_hub_download(MODEL, "config.json", cache_dir=tmp_path)
            assert Path(path).read_bytes() == FILES["config.json"]
            assert hub.requests.count(f"HEAD /{MODEL}/resolve/main/config.json") == 2

    def test_a_broken_download_resumes_at_the_same_byte(self, root: Path, tmp_path: Path) -> None:
        with serve(root, CutConnection("*/model.safetensors", offset=100_000)) as hub:
            path = HfApi(hub.url, token=False).hf_hub_download(MODEL, "model.safetensors", cache_dir=tmp_path)
            assert Path(path).read_bytes() == WEIGHTS
            assert len([request for request in hub.requests if request.startswith("GET /_storage/")]) == 2

    def test_a_broken_download_returns_the_bytes_before_the_break(self, root: Path) -> None:
        with serve(root, CutConnection("/_storage/*", offset=1000)) as hub:
            url = hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url)
            received: list[bytes] = []
            with (
                get_session().stream("GET", url, follow_redirects=True) as response,
                pytest.raises(httpx2.RemoteProtocolError),
            ):
                received.extend(response.iter_raw())
            assert b"".join(received) == WEIGHTS[:1000]

    @pytest.mark.parametrize("headers", [{}, {"Range": "bytes=60000-80000"}])
    def test_the_wrong_byte_fault_changes_one_byte_once(self, root: Path, headers: dict[str, str]) -> None:
        with serve(root, WrongByte("/_storage/*", offset=70_000)) as hub:
            url = hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url)
            first, second = (get_session().get(url, headers=headers).content for _ in range(2))
            start, end = (60_000, 80_001) if headers else (0, len(WEIGHTS))
            assert second == WEIGHTS[start:end]
            assert [at + start for at, byte in enumerate(first) if byte != second[at]] == [70_000]

    def test_the_client_gives_up_on_a_permanent_server_error(self, root: Path, tmp_path: Path) -> None:
        with serve(root, Refuse("/api/*", times=100, status=500, retry_after_seconds=None)) as hub:
            api = HfApi(hub.url, token=False)
            with pytest.raises(LocalEntryNotFoundError):
                api.snapshot_download(MODEL, cache_dir=tmp_path)


class TestPublish:
    def test_the_same_content_gives_the_same_commit(self, folder: Path, tmp_path: Path) -> None:
        first = publish(tmp_path, "model", MODEL, folder)
        before = contents(tmp_path)
        assert publish(tmp_path, "model", MODEL, folder) == first
        assert contents(tmp_path) == before

    def test_older_commits_are_kept(self, tmp_path: Path) -> None:
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

    def test_invalid_input_is_named_in_the_error(self, folder: Path, tmp_path: Path) -> None:
        for repo_id in ("plain", "../up/there", "a/../b", "a/.hidden"):
            with pytest.raises(ValueError, match="owner/name"):
                publish(tmp_path / "root", "model", repo_id, folder)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="empty contains no files"):
            publish(tmp_path / "root", "model", MODEL, tmp_path / "empty")
        assert not (tmp_path / "root").exists()


class TestCommand:
    def test_it_serves_until_sigterm(self, root: Path, tmp_path: Path) -> None:
        address_file = tmp_path / "address"
        arguments = ["--root", str(root), "--address-file", str(address_file)]
        with subprocess.Popen([sys.executable, "-m", "demo.hub", *arguments]) as process:
            try:
                address = wait_for_address(address_file, process)
                assert HfApi(address, token=False).model_info(MODEL).id == MODEL
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        assert not address_file.exists()

    def test_a_port_in_use_is_named_in_the_error(self, hub: Hub, root: Path, tmp_path: Path) -> None:
        port = hub.url.rpartition(":")[2]
        arguments = ["--root", str(root), "--port", port, "--address-file", str(tmp_path / "address")]
        completed = subprocess.run([sys.executable, "-m", "demo.hub", *arguments], capture_output=True, text=True)
        assert completed.returncode == 1
        assert f"127.0.0.1:{port}" in completed.stderr
        assert "--port" in completed.stderr
        assert not (tmp_path / "address").exists()


def wait_for_address(address_file: Path, process: subprocess.Popen[bytes]) -> str:
    while not address_file.exists():
        assert process.poll() is None, "the local Hub exited before it wrote its address"
        time.sleep(0.02)
    return address_file.read_text()
