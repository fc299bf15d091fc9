"""A conversation with an endpoint, from Python and by the line that is printed for people."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from machine import Machine

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, Revision, record_current
from airsmith.serving.chat import curl_command, find_endpoint, reachable, select_model, stream_answer
from airsmith.serving.local.endpoint import deploy, stop_all

REPOSITORY = Path(__file__).parents[3]
STAGES_PYTHON = REPOSITORY / ".venvs" / "stages" / "bin" / "python"
BUILD_MODEL = (
    "import sys; from demo.tiny_llama import *; build_tiny_llama(Path(sys.argv[1]), ['user', 'assistant'], seed=1)"
)
HELLO = [{"role": "user", "content": "Tell me about the weather"}]


def record(store: Store, name: str, address: str = "http://127.0.0.1:9") -> Endpoint:
    revision = Revision(id="d", engine="vllm", address=address, model_name=name, model_uri="m")
    return record_current(store, name, revision)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A tiny model behind a real `transformers serve`."""
    folder = tmp_path_factory.mktemp("served")
    subprocess.run([STAGES_PYTHON, "-c", BUILD_MODEL, folder / "model"], cwd=REPOSITORY, check=True)
    machine = Machine(folder, STAGES_PYTHON)
    deploy(machine.run(files=folder / "model"), machine.settings())
    yield find_endpoint(machine.store, "tiny")
    assert stop_all(machine.settings()) == ["tiny"]


def test_an_answer_is_streamed_piece_by_piece(served: Endpoint):
    pieces = list(stream_answer(served, HELLO, max_tokens=12))
    assert pieces
    assert all(pieces)
    assert "".join(pieces) == "".join(stream_answer(served, HELLO, max_tokens=12))
    assert len("".join(stream_answer(served, HELLO, max_tokens=2))) < len("".join(pieces))


def test_the_line_for_curl_asks_what_it_says(served: Endpoint):
    words = shlex.split(curl_command(served, "What's up?\nGrüße"))
    assert words[:3] == ["curl", "-s", f"{served.current.address}/v1/chat/completions"]
    request = json.loads(words[words.index("-d") + 1])
    assert request["messages"] == [{"role": "user", "content": "What's up?\nGrüße"}]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_another_models_name_is_refused_by_the_server(served: Endpoint):
    other = served.with_current(model_name="other")
    with pytest.raises(AirsmithError, match=r"Endpoint tiny at .* does not answer"):
        list(stream_answer(other, HELLO, max_tokens=2))


def test_an_endpoint_that_does_not_answer_is_named_with_the_remedy(tmp_path: Path):
    endpoint = record(Store.open(f"file://{tmp_path}"), "tiny")
    with pytest.raises(AirsmithError, match=r"Endpoint tiny at http://127\.0\.0\.1:9 does not answer") as failed:
        list(stream_answer(endpoint, HELLO, max_tokens=2))
    assert failed.value.kind is ErrorKind.NOT_FOUND
    assert "deploy again" in failed.value.hint


BEGUN = b'data: {"choices": [{"delta": {"content": "yes"}}]}\n\n'
ANSWERS = {
    "Bearer right": (200, BEGUN + b"data: [DONE]\n\n"),
    "Bearer unlucky": (200, BEGUN + b'data: {"error": {"message": "the engine is gone"}}\n\n'),
    "Bearer talkative": (400, b'{"error": {"message": "this model takes 512 tokens"}}'),
}


@pytest.fixture
def guarded() -> Iterator[str]:
    """Address of a server that answers by the key that it is shown."""

    class Guard(BaseHTTPRequestHandler):
        def do_POST(self):
            status, body = ANSWERS.get(self.headers["Authorization"], (401, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


def locked(tmp_path: Path, address: str) -> Endpoint:
    """An endpoint that wants a key."""
    revision = Revision(
        id="d", engine="vllm", address=address, model_name="tiny", model_uri="m", namespace="ns",
        api_key="endpoints/API_KEY",
    )  # fmt: skip
    return record_current(Store.open(f"file://{tmp_path}"), "tiny", revision)


def test_the_key_comes_from_the_variable_that_every_client_knows(
    tmp_path: Path, guarded: str, monkeypatch: pytest.MonkeyPatch
):
    endpoint = locked(tmp_path, guarded)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert list(stream_answer(endpoint, HELLO, max_tokens=2)) == ["yes"]
    answer = subprocess.run(["bash", "-c", curl_command(endpoint)], capture_output=True, text=True, check=True)
    assert '"content": "yes"' in answer.stdout


def test_who_has_no_key_is_told_where_it_lies(tmp_path: Path, guarded: str, monkeypatch: pytest.MonkeyPatch):
    endpoint = locked(tmp_path, guarded)
    for key in ("", "wrong"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(AirsmithError, match="only to who has its key") as failed:
            list(stream_answer(endpoint, HELLO, max_tokens=2))
        assert failed.value.kind is ErrorKind.ACCESS_DENIED
        assert failed.value.hint == "Set OPENAI_API_KEY to what Secret endpoints/API_KEY of namespace ns holds."


@pytest.mark.parametrize(
    ("key", "kind", "says"),
    [
        ("unlucky", ErrorKind.INTERNAL, "broke off its answer: .*the engine is gone"),
        ("talkative", ErrorKind.NOT_FOUND, "HTTP 400: .*takes 512 tokens"),
    ],
)
def test_what_the_server_says_instead_of_an_answer_is_heard(
    tmp_path: Path, guarded: str, monkeypatch: pytest.MonkeyPatch, key: str, kind: ErrorKind, says: str
):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(AirsmithError, match=says) as failed:
        list(stream_answer(locked(tmp_path, guarded), HELLO, max_tokens=2))
    assert failed.value.kind is kind


def test_one_of_several_adapters_or_their_base_is_asked_by_name(tmp_path: Path):
    alone = record(Store.open(f"file://{tmp_path}"), "shore")
    several = alone.model_copy(update={"model_name": "tide", "adapters": {"tide": "t", "moon": "m"}})
    assert select_model(several, None) is several
    for name in ("tide", "moon", "shore-base"):
        assert select_model(several, name).model_name == name
    with pytest.raises(AirsmithError, match="serves no model sun") as failed:
        select_model(several, "sun")
    assert failed.value.hint == "It serves moon, shore-base, tide."
    with pytest.raises(AirsmithError) as failed:
        select_model(alone, "shore-base")
    assert failed.value.hint == "It serves shore."


def test_an_endpoint_of_this_machine_is_reached_as_it_is(tmp_path: Path):
    endpoint = record(Store.open(f"file://{tmp_path}"), "tiny")
    with reachable(endpoint) as near:
        assert near is endpoint


def test_without_a_cluster_nobody_reaches_its_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    endpoint = locked(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(AirsmithError, match="No cluster is configured") as failed, reachable(endpoint):
        pass
    assert "KUBECONFIG" in failed.value.hint


def test_an_endpoint_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path):
    store = Store.open(f"file://{tmp_path}")
    with pytest.raises(AirsmithError, match="no endpoint tiny") as failed:
        find_endpoint(store, "tiny")
    assert failed.value.hint == "There is none."
    for name in ("b", "a"):
        record(store, name)
    with pytest.raises(AirsmithError) as failed:
        find_endpoint(store, "tiny")
    assert failed.value.hint == "There is a, b."
    assert find_endpoint(store, "a").model_name == "a"
