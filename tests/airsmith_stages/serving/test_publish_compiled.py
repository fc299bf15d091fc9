"""What a server has compiled becomes an artifact once the server answers, and the next server begins with it."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.serving import publish_compiled as module
from airsmith_stages.serving.fetch import fetch_if_there
from airsmith_stages.serving.publish_compiled import keep, publish_compiled, stay_beside, wait_until_healthy

PATH = "artifacts/compile_cache/abcd"
IMAGE = "registry.example/vllm-neuron@sha256:00"
COMPILED = {
    "vllm/neuron/compile_cache/0123/graph.neff": b"\x00neff" * 1000,
    "vllm/neuron/compile_cache/0123/done": b"",
    "neuronx/neuronxcc-2.21.33363.0+82129205/MODULE_1+2/model.neff": b"neff",
}
LOCKS = ("vllm/neuron/compile_cache/0123.lock", "neuronx/neuronxcc-2.21.33363.0+82129205/MODULE_1+2/lock")


def never(_seconds: float) -> bool:
    raise AssertionError("nothing is to be waited for")


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
def health() -> Iterator[Callable[[list[int]], str]]:
    """Serves these statuses, the last one for ever."""
    servers = []

    def serve(statuses: list[int]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/health"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_next_server_has_what_this_one_compiled_but_no_locks(store: Store, compiled: Path, tmp_path: Path):
    published = publish_compiled(store, PATH, compiled, IMAGE)
    assert published is not None
    assert (published.type, published.digest) == ("compile_cache", "abcd")
    assert published.manifest.versions == {"image": IMAGE}
    if store.uri.startswith("memory://"):
        return  # of this process's opening alone
    assert fetch_if_there(store.uri, PATH, tmp_path / "next")
    assert contents(tmp_path / "next") == COMPILED


def test_what_is_kept_already_stays_as_it_is(store: Store, compiled: Path):
    first = publish_compiled(store, PATH, compiled, IMAGE)
    (compiled / "more").write_bytes(b"more")
    again = publish_compiled(store, PATH, compiled, IMAGE)
    assert first is not None
    assert again is not None
    assert again.manifest == first.manifest


def test_where_two_servers_have_compiled_the_first_ones_is_kept(store: Store, compiled: Path, monkeypatch):
    def already_late(*_: object) -> None:
        """The other one publishes after this one has looked."""

    publish_compiled(store, PATH, compiled, "first")
    monkeypatch.setattr(module, "open_artifact", already_late)
    late = publish_compiled(store, PATH, compiled, "second")
    assert late is not None
    assert late.manifest.versions == {"image": "first"}
    roots = {info.path.split("/")[3] for info in store.list(PATH) if "attempt=" in info.path}
    assert roots == {late.manifest.content_root}


def test_nothing_compiled_is_nothing_kept(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert publish_compiled(store, PATH, tmp_path / "absent", IMAGE) is None
    assert open_artifact(store, PATH) is None
    assert "has left nothing compiled" in caplog.text


def test_a_first_server_begins_with_nothing(s3_store: Store, tmp_path: Path):
    assert not fetch_if_there(s3_store.uri, PATH, tmp_path / "next")
    assert not (tmp_path / "next").exists()


def test_of_a_damaged_artifact_nothing_is_left_and_the_server_starts(
    compiled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = Store.open(f"file://{tmp_path}/store")
    publish_compiled(store, PATH, compiled, IMAGE)
    (file,) = (tmp_path / "store" / PATH).glob("attempt=*/vllm/neuron/compile_cache/0123/graph.neff")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[::-1])
    assert not fetch_if_there(store.uri, PATH, tmp_path / "next")
    assert not (tmp_path / "next").exists()
    assert "graph.neff" in caplog.text


def test_the_pod_waits_for_a_store_rather_than_compiling_for_an_hour(tmp_path: Path, s3_environment, monkeypatch):
    s3_environment("http://127.0.0.1:9")
    monkeypatch.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", "1")
    with pytest.raises(AirsmithError) as refused:
        fetch_if_there("s3://airsmith-test/nowhere", PATH, tmp_path / "next")
    assert refused.value.kind is ErrorKind.STORE_UNAVAILABLE


def test_nothing_is_kept_before_the_server_answers(health: Callable[[list[int]], str]):
    waited: list[float] = []

    def pause(seconds: float) -> bool:
        waited.append(seconds)
        return False

    assert wait_until_healthy(health([503, 500, 200]), pause)
    assert len(waited) == 2


class PodsEnd(threading.Event):
    """Comes as soon as somebody waits for nothing else."""

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            self.set()
        return self.is_set()


def test_the_container_ends_with_its_pod_and_not_before(health: Callable[[list[int]], str]):
    ended, kept = PodsEnd(), []
    stay_beside(health([200]), lambda: kept.append(ended.is_set()), ended)
    assert kept == [False]
    assert ended.is_set()


def test_a_pod_that_ends_is_not_waited_for():
    assert not wait_until_healthy("http://127.0.0.1:9/health", lambda _: True)


@pytest.mark.parametrize(
    ("kind", "attempts"), [(ErrorKind.STORE_UNAVAILABLE, 2), (ErrorKind.ACCESS_DENIED, 1)], ids=lambda value: str(value)
)
def test_only_what_may_pass_is_tried_again(
    compiled: Path, tmp_path: Path, kind: ErrorKind, attempts: int, monkeypatch, caplog
):
    tried = []

    def failing_once(*arguments: object) -> None:
        tried.append(arguments)
        if len(tried) == 1:
            raise AirsmithError(kind, "The store says no.", "Ask it.")

    monkeypatch.setattr(module, "publish_compiled", failing_once)
    keep(f"file://{tmp_path}/store", PATH, compiled, IMAGE, lambda _: False)
    assert len(tried) == attempts
    assert "The store says no. Ask it." in caplog.text


def test_a_file_that_goes_away_meanwhile_ends_no_pod(compiled: Path, tmp_path: Path, monkeypatch, caplog):
    def gone(*_: object) -> None:
        raise FileNotFoundError("a file")

    monkeypatch.setattr(module, "publish_compiled", gone)
    keep(f"file://{tmp_path}/store", PATH, compiled, IMAGE, never)
    assert "not kept: a file" in caplog.text


@pytest.fixture(params=["file", "s3"])
def reachable_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that another process sees as well."""
    return f"file://{tmp_path}/store" if request.param == "file" else str(request.getfixturevalue("s3_uri"))


def test_both_programs_do_as_they_are_told(
    reachable_uri: str, compiled: Path, health: Callable[[list[int]], str], tmp_path: Path
):
    command = [
        "-m",
        "airsmith_stages.serving.publish_compiled",
        reachable_uri,
        PATH,
        str(compiled),
        health([200]),
        IMAGE,
    ]
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as publisher:
        assert publisher.stderr is not None
        said = publisher.stderr.readline()
        assert said == f"Kept {len(COMPILED)} files in {reachable_uri}/{PATH}: later servers begin with them.\n"
        publisher.send_signal(signal.SIGTERM)
        assert publisher.wait(timeout=30) == 0

    fetch = ["-m", "airsmith_stages.serving.fetch", "--if-there", PATH, str(tmp_path / "next"), reachable_uri]
    ended = subprocess.run(
        [sys.executable, *fetch, PATH, str(tmp_path / "model")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path / "next") == contents(tmp_path / "model") == COMPILED
