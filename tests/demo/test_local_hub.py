"""The local Hub, driven by the real client: what a stage asks of the Hub must be answered as the Hub answers it."""

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
    def test_names_the_commit_and_the_files(self, api: HfApi, root: Path) -> None:
        info = api.model_info(MODEL)
        assert (info.id, info.private, info.gated) == (MODEL, False, False)
        assert info.sha
        assert len(info.sha) == 40
        assert {sibling.rfilename for sibling in info.siblings or []} == set(FILES)
        assert api.dataset_info("airsmith/data").sha == info.sha  # the same content

    def test_gives_sizes_and_digests_if_asked(self, api: HfApi) -> None:
        files = {file.rfilename: file for file in api.model_info(MODEL, files_metadata=True).siblings or []}
        assert files["config.json"].lfs is None
        assert files["config.json"].blob_id == git_blob(FILES["config.json"])
        assert files["model.safetensors"].size == len(WEIGHTS)
        assert files["model.safetensors"].lfs.sha256 == sha256(WEIGHTS)

    def test_gives_only_what_is_asked_for(self, api: HfApi) -> None:
        info = api.model_info(MODEL, expand=["sha", "gated"])
        assert info.sha
        assert info.gated is False
        assert info.siblings is None

    def test_a_branch_with_a_slash_and_a_commit_resolve(self, api: HfApi) -> None:
        pull = api.model_info(MODEL, revision="refs/pr/1")
        assert {sibling.rfilename for sibling in pull.siblings or []} == {"a/b c.txt"}
        assert api.model_info(MODEL, revision=pull.sha).sha == pull.sha
        refs = {branch.name: branch.target_commit for branch in api.list_repo_refs(MODEL).branches}
        assert refs == {"main": api.model_info(MODEL).sha, "refs/pr/1": pull.sha}

    def test_what_is_not_there_is_told_apart(self, api: HfApi, hub: Hub) -> None:
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

    def test_one_level_and_one_folder(self, api: HfApi) -> None:
        assert [entry.path for entry in api.list_repo_tree(MODEL)] == ["config.json", "model.safetensors", "onnx"]
        assert [entry.path for entry in api.list_repo_tree(MODEL, "onnx/a")] == ["onnx/a/b c.txt"]
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(MODEL, "nowhere"))

    def test_a_long_listing_comes_in_pages(self, api: HfApi, root: Path, tmp_path: Path) -> None:
        for number in range(1001):
            (tmp_path / f"{number:04}").touch()
        publish(root, "dataset", "airsmith/many", tmp_path)
        entries = api.list_repo_tree("airsmith/many", repo_type="dataset")
        assert [entry.path for entry in entries] == sorted(path.name for path in tmp_path.iterdir())

    def test_a_page_is_as_long_as_asked(self, hub: Hub) -> None:
        page = get_session().get(f"{hub.url}/api/models/{MODEL}/tree/main", params={"limit": 2})
        assert len(page.json()) == 2
        following = get_session().get(page.links["next"]["url"])
        assert [entry["path"] for entry in following.json()] == ["onnx"]
        assert "next" not in following.links

    def test_paths_are_described_and_unknown_ones_left_out(self, api: HfApi) -> None:
        described = api.get_paths_info(MODEL, ["onnx", "config.json", "nowhere"], expand=True)
        assert {entry.path: type(entry) for entry in described} == {"onnx": RepoFolder, "config.json": RepoFile}


class TestDownload:
    def test_a_snapshot_is_what_was_published(self, api: HfApi, tmp_path: Path) -> None:
        assert contents(api.snapshot_download(MODEL, cache_dir=tmp_path)) == FILES
        target = api.snapshot_download("airsmith/data", repo_type="dataset", local_dir=tmp_path / "data")
        assert contents(target) == FILES

    def test_metadata_of_an_lfs_file_points_to_storage_elsewhere(self, api: HfApi, hub: Hub) -> None:
        metadata = get_hf_file_metadata(hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url), token=False)
        assert (metadata.etag, metadata.size) == (sha256(WEIGHTS), len(WEIGHTS))
        assert metadata.commit_hash == api.model_info(MODEL).sha
        assert "/_storage/" in metadata.location
        assert not metadata.location.startswith(hub.url)
        assert metadata.xet_file_data is None

    def test_metadata_of_a_small_file_is_its_own(self, hub: Hub) -> None:
        url = hf_hub_url(MODEL, "config.json", endpoint=hub.url)
        metadata = get_hf_file_metadata(url, token=False)
        assert (metadata.etag, metadata.size) == (git_blob(FILES["config.json"]), len(FILES["config.json"]))
        assert metadata.location == url

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_a_range_is_a_part_of_the_file(self, hub: Hub, name: str) -> None:
        url = hf_hub_url(MODEL, name, endpoint=hub.url)
        part = get_session().get(url, headers={"Range": "bytes=5-11"})
        assert (part.status_code, part.content) == (206, FILES[name][5:12])
        assert part.headers["Content-Range"] == f"bytes 5-11/{len(FILES[name])}"
        assert get_session().get(url, headers={"Range": "bytes=999999-"}).status_code == 416

    def test_storage_wants_a_signed_address(self, hub: Hub) -> None:
        location = get_hf_file_metadata(hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url), token=False).location
        assert get_session().get(location).content == WEIGHTS
        assert get_session().get(location.replace("signature=", "signature=0")).status_code == 403

    def test_a_missing_file_is_named(self, api: HfApi) -> None:
        with pytest.raises(EntryNotFoundError, match=r"nothing\.json"):
            api.hf_hub_download(MODEL, "nothing.json")
        assert not api.file_exists(MODEL, "nothing.json")


class TestAccess:
    def test_a_private_repository_exists_for_its_readers_only(self, api: HfApi, tmp_path: Path) -> None:
        for token, status in ((False, 401), (STRANGER, 404)):
            with pytest.raises(RepositoryNotFoundError) as refused:
                api.model_info("airsmith/private", token=token)
            assert refused.value.response.status_code == status
        assert api.model_info("airsmith/private", token=READER).private
        assert contents(api.snapshot_download("airsmith/private", token=READER, cache_dir=tmp_path)) == FILES

    def test_a_gated_repository_is_seen_by_all_and_read_by_its_readers(self, api: HfApi, tmp_path: Path) -> None:
        assert api.model_info("airsmith/gated").gated == "manual"
        for token, status in ((False, 401), (STRANGER, 403)):
            with pytest.raises(GatedRepoError) as refused:
                api.hf_hub_download("airsmith/gated", "config.json", token=token, cache_dir=tmp_path)
            assert refused.value.response.status_code == status
            with pytest.raises(GatedRepoError):
                api.auth_check("airsmith/gated", token=token)
        api.auth_check("airsmith/gated", token=READER)
        assert contents(api.snapshot_download("airsmith/gated", token=READER, cache_dir=tmp_path)) == FILES

    def test_an_unknown_token_is_refused_as_such(self, api: HfApi) -> None:
        assert api.whoami(token=READER)["name"] == "reader"
        for call in (api.whoami, lambda token: api.model_info(MODEL, token=token)):
            with pytest.raises(HfHubHTTPError) as refused:
                call(token="hf_unknown")
            assert refused.value.response.status_code == 401
            assert not isinstance(refused.value, RepositoryNotFoundError)


class TestFaults:
    def test_too_many_requests_then_success(self, root: Path, tmp_path: Path) -> None:
        refuse = Refuse("*/resolve/main/config.json", times=1, retry_after_seconds=0)
        with serve(root, refuse, Refuse("/api/models/*", times=1, retry_after_seconds=7)) as hub:
            api = HfApi(hub.url, token=False)
            with pytest.raises(HfHubHTTPError) as refused:
                api.model_info(MODEL)
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"] == "7"
            path = api.hf_hub_download(MODEL, "config.json", cache_dir=tmp_path)
            assert Path(path).read_bytes() == FILES["config.json"]
            assert hub.requests.count(f"HEAD /{MODEL}/resolve/main/config.json") == 2

    def test_a_cut_connection_is_resumed_where_it_broke(self, root: Path, tmp_path: Path) -> None:
        with serve(root, CutConnection("*/model.safetensors", offset=100_000)) as hub:
            path = HfApi(hub.url, token=False).hf_hub_download(MODEL, "model.safetensors", cache_dir=tmp_path)
            assert Path(path).read_bytes() == WEIGHTS
            assert len([request for request in hub.requests if request.startswith("GET /_storage/")]) == 2

    def test_a_cut_download_says_how_much_came(self, root: Path) -> None:
        with serve(root, CutConnection("/_storage/*", offset=1000)) as hub:
            url = hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url)
            received: list[bytes] = []
            with (
                get_session().stream("GET", url, follow_redirects=True) as response,
                pytest.raises(httpx2.RemoteProtocolError),
            ):
                received.extend(response.iter_raw())
            assert b"".join(received) == WEIGHTS[:1000]

    @pytest.mark.parametrize("asked", [{}, {"Range": "bytes=60000-80000"}])
    def test_a_wrong_byte_is_one_wrong_byte(self, root: Path, asked: dict[str, str]) -> None:
        with serve(root, WrongByte("/_storage/*", offset=70_000)) as hub:
            url = hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url)
            first, second = (get_session().get(url, headers=asked).content for _ in range(2))
            start, end = (60_000, 80_001) if asked else (0, len(WEIGHTS))
            assert second == WEIGHTS[start:end]
            assert [at + start for at, byte in enumerate(first) if byte != second[at]] == [70_000]

    def test_a_server_error_that_stays_is_given_up(self, root: Path, tmp_path: Path) -> None:
        with serve(root, Refuse("/api/*", times=100, status=500, retry_after_seconds=None)) as hub:
            api = HfApi(hub.url, token=False)
            with pytest.raises(LocalEntryNotFoundError):
                api.snapshot_download(MODEL, cache_dir=tmp_path)


class TestPublish:
    def test_the_same_content_is_the_same_commit(self, folder: Path, tmp_path: Path) -> None:
        first = publish(tmp_path, "model", MODEL, folder)
        before = contents(tmp_path)
        assert publish(tmp_path, "model", MODEL, folder) == first
        assert contents(tmp_path) == before

    def test_older_commits_stay(self, tmp_path: Path) -> None:
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

    def test_what_cannot_be_published_is_named(self, folder: Path, tmp_path: Path) -> None:
        for repo_id in ("plain", "../up/there", "a/../b", "a/.hidden"):
            with pytest.raises(ValueError, match="owner/name"):
                publish(tmp_path / "root", "model", repo_id, folder)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="empty holds no file"):
            publish(tmp_path / "root", "model", MODEL, tmp_path / "empty")
        assert not (tmp_path / "root").exists()


class TestCommand:
    def test_it_serves_until_it_is_told_to_stop(self, root: Path, tmp_path: Path) -> None:
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

    def test_a_taken_port_is_named(self, hub: Hub, root: Path, tmp_path: Path) -> None:
        port = hub.url.rpartition(":")[2]
        arguments = ["--root", str(root), "--port", port, "--address-file", str(tmp_path / "address")]
        ended = subprocess.run([sys.executable, "-m", "demo.hub", *arguments], capture_output=True, text=True)
        assert ended.returncode == 1
        assert f"127.0.0.1:{port}" in ended.stderr
        assert "--port" in ended.stderr
        assert not (tmp_path / "address").exists()


def wait_for_address(address_file: Path, process: subprocess.Popen[bytes]) -> str:
    while not address_file.exists():
        assert process.poll() is None, "the local Hub ended before it had an address"
        time.sleep(0.02)
    return address_file.read_text()
