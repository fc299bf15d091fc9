"""The compiled files of a healthy server become an artifact, and the next server starts with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.serving import publish_compiled as module
from airsmith_stages.serving.fetch import fetch_if_exists
from airsmith_stages.serving.publish_compiled import (
    publish_compiled,
    publish_when_healthy,
    publish_with_retries,
    wait_until_healthy,
)
from tests.support.http_servers import QuietHandler, serve_http

PATH = "artifacts/compile_cache/abcd"
IMAGE = "registry.example/vllm-neuron@sha256:00"
COMPILED = {
    "vllm/neuron/compile_cache/0123/graph.neff": b"\x00neff" * 1000,
    "vllm/neuron/compile_cache/0123/done": b"",
    "neuronx/neuronxcc-2.21.33363.0+82129205/MODULE_1+2/model.neff": b"neff",
}
LOCKS = ("vllm/neuron/compile_cache/0123.lock", "neuronx/neuronxcc-2.21.33363.0+82129205/MODULE_1+2/lock")


def never(_seconds: float) -> bool:
    raise AssertionError("unexpected wait")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    folder = tmp_path / "compiled"
    for name, content in {**COMPILED, **dict.fromkeys(LOCKS, b"1")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def serve_health() -> Iterator[Callable[[list[int]], str]]:
    """Serves these statuses in order, and repeats the last one."""

    def serve(statuses: list[int]) -> str:
        class Handler(QuietHandler):
            def do_GET(self) -> None:
                self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
                self.end_headers()

        return f"{servers.enter_context(serve_http(Handler))}/health"

    with ExitStack() as servers:
        yield serve


def test_the_next_server_gets_the_compiled_files_without_locks(store: Store, compiled: Path, tmp_path: Path):
    published = publish_compiled(store, PATH, compiled, IMAGE)
    assert published is not None
    assert (published.type, published.digest) == ("compile_cache", "abcd")
    assert published.manifest.versions == {"image": IMAGE}
    if store.uri.startswith("memory://"):
        return  # not visible through another URI
    assert fetch_if_exists(store.uri, PATH, tmp_path / "next")
    assert contents(tmp_path / "next") == COMPILED


def test_a_published_cache_is_not_replaced(store: Store, compiled: Path):
    first = publish_compiled(store, PATH, compiled, IMAGE)
    (compiled / "more").write_bytes(b"more")
    again = publish_compiled(store, PATH, compiled, IMAGE)
    assert first is not None
    assert again is not None
    assert again.manifest == first.manifest


def test_of_two_concurrent_publishers_the_first_wins(store: Store, compiled: Path, monkeypatch):
    def already_late(*_: object) -> None:
        """Do not find the artifact that the other server has published."""

    publish_compiled(store, PATH, compiled, "first")
    monkeypatch.setattr(module, "open_artifact", already_late)
    late = publish_compiled(store, PATH, compiled, "second")
    assert late is not None
    assert late.manifest.versions == {"image": "first"}
    roots = {info.path.split("/")[3] for info in store.list(PATH) if "attempt=" in info.path}
    assert roots == {late.manifest.content_root}


def test_without_compiled_files_nothing_is_published(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert publish_compiled(store, PATH, tmp_path / "absent", IMAGE) is None
    assert open_artifact(store, PATH) is None
    assert "is empty; the next server compiles again" in caplog.text


def test_the_first_server_starts_without_a_cache(s3_store: Store, tmp_path: Path):
    assert not fetch_if_exists(s3_store.uri, PATH, tmp_path / "next")
    assert not (tmp_path / "next").exists()


def test_a_damaged_cache_is_discarded_and_does_not_fail_the_fetch(
    compiled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = Store.open(f"file://{tmp_path}/store")
    publish_compiled(store, PATH, compiled, IMAGE)
    (file,) = (tmp_path / "store" / PATH).glob("attempt=*/vllm/neuron/compile_cache/0123/graph.neff")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[::-1])
    assert not fetch_if_exists(store.uri, PATH, tmp_path / "next")
    assert not (tmp_path / "next").exists()
    assert "graph.neff" in caplog.text


def test_an_unavailable_store_fails_the_fetch(tmp_path: Path, use_s3, monkeypatch):
    use_s3("http://127.0.0.1:9")
    monkeypatch.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", "1")
    with pytest.raises(AirsmithError) as refused:
        fetch_if_exists("s3://airsmith-test/nowhere", PATH, tmp_path / "next")
    assert refused.value.kind is ErrorKind.STORE_UNAVAILABLE


def test_publishing_waits_until_the_server_is_healthy(serve_health: Callable[[list[int]], str]):
    waited: list[float] = []

    def pause(seconds: float) -> bool:
        waited.append(seconds)
        return False

    assert wait_until_healthy(serve_health([503, 500, 200]), pause)
    assert len(waited) == 2


class PodEndsWhenIdle(threading.Event):
    """Is set by the first wait without a timeout."""

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            self.set()
        return self.is_set()


def test_the_sidecar_runs_until_its_pod_terminates(serve_health: Callable[[list[int]], str]):
    result, kept = PodEndsWhenIdle(), []
    publish_when_healthy(serve_health([200]), lambda: kept.append(result.is_set()), result)
    assert kept == [False]
    assert result.is_set()


def test_waiting_stops_when_the_pod_terminates():
    assert not wait_until_healthy("http://127.0.0.1:9/health", lambda _: True)


@pytest.mark.parametrize(
    ("kind", "attempts"), [(ErrorKind.STORE_UNAVAILABLE, 2), (ErrorKind.ACCESS_DENIED, 1)], ids=lambda value: str(value)
)
def test_only_temporary_errors_are_retried(
    compiled: Path, tmp_path: Path, kind: ErrorKind, attempts: int, monkeypatch, caplog
):
    attempts_made = []

    def failing_once(*arguments: object) -> None:
        attempts_made.append(arguments)
        if len(attempts_made) == 1:
            raise AirsmithError(kind, "The store says no.", "Ask it.")

    monkeypatch.setattr(module, "publish_compiled", failing_once)
    publish_with_retries(f"file://{tmp_path}/store", PATH, compiled, IMAGE, lambda _: False)
    assert len(attempts_made) == attempts
    assert "The store says no. Ask it." in caplog.text


def test_a_file_that_disappears_does_not_fail_the_sidecar(compiled: Path, tmp_path: Path, monkeypatch, caplog):
    def gone(*_: object) -> None:
        raise FileNotFoundError("a file")

    monkeypatch.setattr(module, "publish_compiled", gone)
    publish_with_retries(f"file://{tmp_path}/store", PATH, compiled, IMAGE, never)
    assert "not published: a file" in caplog.text


@pytest.fixture(params=["file", "s3"])
def shared_store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that other processes can access."""
    return f"file://{tmp_path}/store" if request.param == "file" else str(request.getfixturevalue("s3_uri"))


def test_the_programs_publish_and_fetch_the_compiled_files(
    shared_store_uri: str, compiled: Path, serve_health: Callable[[list[int]], str], tmp_path: Path
):
    command = [
        "-m",
        "airsmith_stages.serving.publish_compiled",
        shared_store_uri,
        PATH,
        str(compiled),
        serve_health([200]),
        IMAGE,
    ]
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as publisher:
        assert publisher.stderr is not None
        try:
            line = publisher.stderr.readline()
            publisher.send_signal(signal.SIGTERM)
            assert publisher.wait(timeout=30) == 0
        finally:
            publisher.kill()
    published = f"Published {len(COMPILED)} files as {shared_store_uri}/{PATH}; the next server starts from them.\n"
    assert line == published

    fetch = ["-m", "airsmith_stages.serving.fetch", "--optional", PATH, str(tmp_path / "next"), shared_store_uri]
    result = subprocess.run(
        [sys.executable, *fetch, PATH, str(tmp_path / "model")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "next") == contents(tmp_path / "model") == COMPILED
