"""A conversation with an endpoint, from Python and by the line that is printed for people."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine

from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.registry import Deployment, Endpoint, swap_endpoint
from airsmith.serving.chat import curl_line, find_endpoint, stream_answer
from airsmith.serving.local import deploy, stop_all

REPOSITORY = Path(__file__).parents[3]
STAGES_PYTHON = REPOSITORY / ".venvs" / "stages" / "bin" / "python"
BUILD_MODEL = (
    "import sys; from demo.tiny_llama import *; build_tiny_llama(Path(sys.argv[1]), ['user', 'assistant'], seed=1)"
)
HELLO = [{"role": "user", "content": "Tell me about the weather"}]


def record(store: Store, name: str, address: str = "http://127.0.0.1:9") -> Endpoint:
    deployment = Deployment(engine="vllm", address=address, model_name=name, model_uri="m", deployment="d")
    return swap_endpoint(store, name, deployment)


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
    words = shlex.split(curl_line(served, "What's up?\nGrüße"))
    assert words[:3] == ["curl", "-s", f"{served.address}/v1/chat/completions"]
    request = json.loads(words[words.index("-d") + 1])
    assert request["messages"] == [{"role": "user", "content": "What's up?\nGrüße"}]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_another_models_name_is_refused_by_the_server(served: Endpoint):
    other = served.model_copy(update={"model_name": "other"})
    with pytest.raises(AirsmithError, match=r"Endpoint tiny at .* does not answer"):
        list(stream_answer(other, HELLO, max_tokens=2))


def test_an_endpoint_that_does_not_answer_is_named_with_the_remedy(tmp_path: Path):
    endpoint = record(Store.open(f"file://{tmp_path}"), "tiny")
    with pytest.raises(AirsmithError, match=r"Endpoint tiny at http://127\.0\.0\.1:9 does not answer") as failed:
        list(stream_answer(endpoint, HELLO, max_tokens=2))
    assert failed.value.kind is ErrorKind.NOT_FOUND
    assert "deploy again" in failed.value.hint


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
