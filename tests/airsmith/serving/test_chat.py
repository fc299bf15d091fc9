"""A chat with an endpoint, from Python and by the printed curl line."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, record_current
from airsmith.serving.chat import curl_command, find_endpoint, reachable, select_model, stream_answer
from airsmith.serving.local.endpoint import deploy, stop_all
from tests.support.http_servers import QuietHandler, serve_http
from tests.support.local_endpoints import LocalHost
from tests.support.registry import new_revision
from tests.support.repository import REPOSITORY, STAGES_PYTHON

BUILD_MODEL = (
    "import sys; from demo.tiny_llama import *; build_tiny_llama(Path(sys.argv[1]), ['user', 'assistant'], seed=1)"
)
HELLO = [{"role": "user", "content": "Tell me about the weather"}]


def record_endpoint(store: Store, name: str, address: str = "http://127.0.0.1:9") -> Endpoint:
    return record_current(store, name, new_revision(name, address=address))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A tiny model behind a real `transformers serve`."""
    folder = tmp_path_factory.mktemp("served")
    subprocess.run([STAGES_PYTHON, "-c", BUILD_MODEL, folder / "model"], cwd=REPOSITORY, check=True)
    host = LocalHost(folder, STAGES_PYTHON)
    deploy(host.new_run(files=folder / "model"), host.settings())
    yield find_endpoint(host.store, "tiny")
    assert stop_all(host.settings()) == ["tiny"]


def test_an_answer_is_streamed_in_pieces(served: Endpoint):
    pieces = list(stream_answer(served, HELLO, max_tokens=12))
    assert pieces
    assert all(pieces)
    assert "".join(pieces) == "".join(stream_answer(served, HELLO, max_tokens=12))
    assert len("".join(stream_answer(served, HELLO, max_tokens=2))) < len("".join(pieces))


def test_the_curl_line_sends_its_prompt(served: Endpoint):
    words = shlex.split(curl_command(served, "What's up?\nGrüße"))
    assert words[:3] == ["curl", "-s", f"{served.current.address}/v1/chat/completions"]
    request = json.loads(words[words.index("-d") + 1])
    assert request["messages"] == [{"role": "user", "content": "What's up?\nGrüße"}]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_an_unknown_model_name_is_refused_by_the_server(served: Endpoint):
    other = served.with_current(model_name="other")
    with pytest.raises(AirsmithError, match=r"Endpoint tiny at .* does not respond"):
        list(stream_answer(other, HELLO, max_tokens=2))


def test_an_unreachable_endpoint_is_reported_with_a_remedy(tmp_path: Path):
    endpoint = record_endpoint(Store.open(f"file://{tmp_path}"), "tiny")
    with pytest.raises(AirsmithError, match=r"Endpoint tiny at http://127\.0\.0\.1:9 does not respond") as failed:
        list(stream_answer(endpoint, HELLO, max_tokens=2))
    assert failed.value.kind is ErrorKind.NOT_FOUND
    assert "Deploy again" in failed.value.hint


FIRST_PIECE = b'data: {"choices": [{"delta": {"content": "yes"}}]}\n\n'
RESPONSES = {
    "Bearer right": (200, FIRST_PIECE + b"data: [DONE]\n\n"),
    "Bearer unlucky": (200, FIRST_PIECE + b'data: {"error": {"message": "the engine is gone"}}\n\n'),
    "Bearer talkative": (400, b'{"error": {"message": "this model takes 512 tokens"}}'),
}


@pytest.fixture
def keyed_server() -> Iterator[str]:
    """Address of a server whose response depends on the API key."""

    class Handler(QuietHandler):
        def do_POST(self):
            status, body = RESPONSES.get(self.headers["Authorization"], (401, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

    with serve_http(Handler) as address:
        yield address


def endpoint_with_key(tmp_path: Path, address: str) -> Endpoint:
    """An endpoint that requires an API key."""
    revision = new_revision(address=address, namespace="ns", api_key="endpoints/API_KEY")
    return record_current(Store.open(f"file://{tmp_path}"), "tiny", revision)


def test_the_api_key_is_read_from_openai_api_key(tmp_path: Path, keyed_server: str, monkeypatch: pytest.MonkeyPatch):
    endpoint = endpoint_with_key(tmp_path, keyed_server)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert list(stream_answer(endpoint, HELLO, max_tokens=2)) == ["yes"]
    answer = subprocess.run(["bash", "-c", curl_command(endpoint)], capture_output=True, text=True, check=True)
    assert '"content": "yes"' in answer.stdout


def test_a_missing_or_wrong_key_is_reported_with_its_secret(
    tmp_path: Path, keyed_server: str, monkeypatch: pytest.MonkeyPatch
):
    endpoint = endpoint_with_key(tmp_path, keyed_server)
    for key in ("", "wrong"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(AirsmithError, match="requires an API key") as failed:
            list(stream_answer(endpoint, HELLO, max_tokens=2))
        assert failed.value.kind is ErrorKind.ACCESS_DENIED
        assert failed.value.hint == "Set OPENAI_API_KEY to the key in Secret endpoints/API_KEY of namespace ns."


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        ("unlucky", ErrorKind.INTERNAL, "failed during its answer: .*the engine is gone"),
        ("talkative", ErrorKind.NOT_FOUND, "HTTP 400: .*takes 512 tokens"),
    ],
)
def test_an_error_of_the_server_is_reported(
    tmp_path: Path, keyed_server: str, monkeypatch: pytest.MonkeyPatch, key: str, kind: ErrorKind, message: str
):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(AirsmithError, match=message) as failed:
        list(stream_answer(endpoint_with_key(tmp_path, keyed_server), HELLO, max_tokens=2))
    assert failed.value.kind is kind


def test_an_adapter_or_the_base_model_is_selected_by_name(tmp_path: Path):
    single = record_endpoint(Store.open(f"file://{tmp_path}"), "shore")
    several = single.with_current(model_name="tide", adapters={"tide": "t", "moon": "m"})
    assert select_model(several, None) is several
    for name in ("tide", "moon", "shore-base"):
        assert select_model(several, name).current.model_name == name
    with pytest.raises(AirsmithError, match="does not serve model sun") as failed:
        select_model(several, "sun")
    assert failed.value.hint == "It serves moon, shore-base, tide."
    with pytest.raises(AirsmithError) as failed:
        select_model(single, "shore-base")
    assert failed.value.hint == "It serves shore."


def test_a_local_endpoint_needs_no_port_forwarding(tmp_path: Path):
    endpoint = record_endpoint(Store.open(f"file://{tmp_path}"), "tiny")
    with reachable(endpoint) as reached:
        assert reached is endpoint


def test_an_endpoint_on_a_cluster_requires_a_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    endpoint = endpoint_with_key(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(AirsmithError, match="No cluster is configured") as failed, reachable(endpoint):
        pass
    assert "KUBECONFIG" in failed.value.hint


def test_a_missing_endpoint_is_reported_with_the_existing_ones(tmp_path: Path):
    store = Store.open(f"file://{tmp_path}")
    with pytest.raises(AirsmithError, match="Endpoint tiny does not exist") as failed:
        find_endpoint(store, "tiny")
    assert failed.value.hint == "Existing endpoints: none."
    for name in ("b", "a"):
        record_endpoint(store, name)
    with pytest.raises(AirsmithError) as failed:
        find_endpoint(store, "tiny")
    assert failed.value.hint == "Existing endpoints: a, b."
    assert find_endpoint(store, "a").current.model_name == "a"
