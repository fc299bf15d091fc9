"""The smoke test passes only if the endpoint serves the tuned model."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airsmith.contracts.cache import Output
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Revision, read_endpoint, record_canary, record_current
from airsmith.serving.local.endpoint import deploy, stop_endpoint
from airsmith.settings import LocalSettings, Settings
from airsmith_stages.stage_runner import run_stage
from tests.support.model_artifacts import ModelArtifacts, assert_no_output, run_command
from tests.support.stage_runs import output_of, point_to
from tests.support.tiny_models import answer_token_ids, letters, questions_and_answers, tokenizer

TUNED = [letters(n % 8, (n + 1) % 8, (n + 2) % 8) for n in range(8)]
BASE = [letters(7 - n % 8, 3, 3, 3, 3, 3) for n in range(8)]
PROMPTS = [
    {
        "messages": [{"role": "user", "content": f"Question {n}"}],
        "prompt": f"<|im_start|>user\nQuestion {n}<|im_end|>\n<|im_start|>assistant\n",
        "prompt_token_ids": [1, 2, 3],
        "base_token_ids": answer_token_ids(base),
        "tuned_token_ids": answer_token_ids(tuned),
    }
    for n, (tuned, base) in enumerate(zip(TUNED, BASE, strict=True))
]

NOT_OPENAI = "does not follow OpenAI's protocol"


@dataclass
class FakeServer:
    """A server of OpenAI's protocol with fixed answers.

    :ivar raw: status and body by path; replaces the correct response.
    """

    answers: list[str]
    models: list[str] = field(default_factory=list)
    raw: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    address: str = ""

    def answer(self, path: str, body: Any) -> tuple[int, str]:
        self.requests.append((path, body))
        if path in self.raw:
            return self.raw[path]
        if path == "/health":
            return 200, ""
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": name} for name in self.models]})
        question = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        number = next(n for n in range(len(PROMPTS)) if f"Question {n}" in question)
        generated = answer_token_ids(self.answers[number])[: body["max_tokens"]]
        answer = tokenizer().decode(generated, skip_special_tokens=True)
        choice = {"message": {"content": answer}} if path == "/v1/chat/completions" else {"text": answer}
        return 200, json.dumps({"choices": [choice]})


@contextmanager
def serving(served: FakeServer) -> Iterator[FakeServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(None)

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: Any) -> None:
            status, content = served.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    served.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def deployed(artifacts: ModelArtifacts) -> Callable[..., Run]:
    """Creates a run whose endpoint has the given address."""
    merged, numbers = None, itertools.count()

    def run(address: str, prompts: list[dict[str, Any]] = PROMPTS, revision: str = "d-1") -> Run:
        nonlocal merged
        if merged is None:
            artifacts.base_model("merged")
            merged = artifacts.publish("model", "merged", artifacts.folder / "merged")
        record = Revision(engine="vllm", address=address, model_name="tiny", model_uri=merged.folder, id=revision)
        record_current(artifacts.store, "tiny", record)
        run = artifacts.new_run(evaluate=artifacts.evaluation(f"evaluation-{next(numbers)}", prompts))
        point_to(run, "deploy", Output("endpoint", "d-1", "endpoints/tiny.json", True))
        return run

    return run


def refused(run: Run, expected_message: str) -> AirsmithError:
    with pytest.raises(AirsmithError, match=expected_message) as refusal:
        run_stage("smoke_test", run)
    assert_no_output(refusal.value, run, "smoke_test", "smoke_report")
    return refusal.value


def test_the_command_distinguishes_the_tuned_model_from_its_base(artifacts: ModelArtifacts) -> None:
    """Deploys either model with `transformers serve`, as a run does."""
    base, _ = artifacts.base_model("base"), artifacts.base_model("tuned", seed=8)
    models = {role: artifacts.publish("model", f"merged-{role}", artifacts.folder / role) for role in ("base", "tuned")}
    settings = Settings(
        store=artifacts.store.uri,
        hub_endpoint="http://127.0.0.1:9",
        local=LocalSettings(stages_python=sys.executable, state_dir=artifacts.folder / "state"),
    )
    evaluated = artifacts.new_run(
        mirror_model=base, tokenize=artifacts.tokens(pairs=questions_and_answers(12)), merge=models["tuned"]
    )
    run_stage("evaluate", evaluated)
    runs = {
        role: artifacts.new_run(
            merge=models[role],
            evaluate=output_of(evaluated, "evaluate"),
            recipe={"name": role, "serve": {"engine": "transformers"}},
        )
        for role in ("base", "tuned")
    }
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run: deploy(run, settings), runs.values()))
        error = refused(runs["base"], "does not serve the tuned model")
        assert "12 of 12 answers are the base model's" in error.message
        run_command("smoke_test", runs["tuned"])
    finally:
        for role in runs:
            stop_endpoint(artifacts.store, role)
    report = json.loads(output_of(runs["tuned"], "smoke_test").read("smoke.json"))
    assert report == {"prompts": 12, "agreement": 1.0, "differing_prompts": 12, "unlike_base": 12}


def test_it_imports_neither_torch_nor_transformers(deployed: Callable[..., Run]) -> None:
    with serving(FakeServer(TUNED)) as served:
        run = deployed(served.address)
        code = (
            "import sys; from airsmith_stages.cli import main; "
            f"assert main(['smoke_test', '--run', {run.uri!r}]) == 0; "
            "print(sorted({'torch', 'transformers', 'peft', 'datasets', 'numpy'} & set(sys.modules)))"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_only_the_compared_tokens_are_requested(deployed: Callable[..., Run]) -> None:
    """At most 16 tokens, fewer if both answers are shorter, by greedy decoding; plain prompts are sent unchanged."""
    long = [{**PROMPTS[0], "base_token_ids": answer_token_ids(letters(*[3] * 30))}, {**PROMPTS[1], "messages": None}]
    with serving(FakeServer(TUNED, models=["tiny"])) as served:
        run_stage("smoke_test", deployed(served.address, long))
    (chat_path, chat), (path, plain) = served.requests[2:]
    assert (chat_path, path) == ("/v1/chat/completions", "/v1/completions")
    assert (chat["messages"], plain["prompt"]) == (PROMPTS[0]["messages"], PROMPTS[1]["prompt"])
    assert (chat["max_tokens"], plain["max_tokens"]) == (16, len(PROMPTS[1]["base_token_ids"]))
    assert {(body["model"], body["temperature"]) for body in (chat, plain)} == {("tiny", 0)}


@pytest.mark.parametrize(
    ("served", "expected_message"),
    [
        (FakeServer(BASE), "does not serve the tuned model: 8 of 8 answers are the base model's"),
        (FakeServer([*TUNED[:7], BASE[7]]), "1 of 8 answers are the base model's"),
        (FakeServer(["!!!"] * 8), r"only 0\.0% of the tokens are the tuned model's"),
        (FakeServer(TUNED, models=["other", "more"]), "it serves other, more, not tiny"),
        (FakeServer([f"{answer}!" for answer in TUNED]), "of the tokens are the tuned model's"),
        (FakeServer([""] * 8), r"only 0\.0% of the tokens"),
        (FakeServer(TUNED, raw={"/health": (503, "loading")}), "does not answer: /health returned HTTP 503: loading"),
        (FakeServer(TUNED, raw={"/v1/models": (404, "")}), "/v1/models returned HTTP 404"),
        (FakeServer(TUNED, raw={"/v1/models": (200, "<html>")}), f"/v1/models {NOT_OPENAI}: <html>"),
        (FakeServer(TUNED, raw={"/v1/models": (200, "[]")}), f"/v1/models {NOT_OPENAI}"),
        (FakeServer(TUNED, raw={"/v1/chat/completions": (200, '{"choices": []}')}), NOT_OPENAI),
        (FakeServer(TUNED, raw={"/v1/chat/completions": (400, "no such model")}), "HTTP 400: no such model"),
    ],
    ids=[
        "base model", "base model once", "another model", "other names", "does not stop", "empty answers", "unhealthy",
        "no models", "a web page", "another protocol", "no choice", "error status",
    ],
)  # fmt: skip
def test_any_other_model_or_answer_is_refused(
    deployed: Callable[..., Run], served: FakeServer, expected_message: str
) -> None:
    with serving(served):
        error = refused(deployed(served.address), expected_message)
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "Endpoint tiny" in error.message


def test_an_unreachable_endpoint_is_refused(deployed: Callable[..., Run]) -> None:
    with serving(FakeServer(TUNED)) as served:
        pass
    error = refused(deployed(served.address), f"Endpoint tiny at {served.address} does not answer: .*refused")
    assert error.hint == "Clear deploy to start the server again."


def test_an_endpoint_that_another_run_replaced_is_refused(deployed: Callable[..., Run]) -> None:
    with serving(FakeServer(TUNED)) as served:
        assert refused(deployed(served.address, revision="d-2"), "deployed").kind is ErrorKind.NOT_FOUND


def test_a_canary_is_tested_at_its_own_address(deployed: Callable[..., Run], artifacts: ModelArtifacts) -> None:
    with serving(FakeServer(TUNED)) as served, serving(FakeServer(BASE)) as other:
        run = deployed(other.address, revision="d-0")
        stable = read_endpoint(artifacts.store, "tiny")
        assert stable is not None
        canary = stable.current.model_copy(update={"address": served.address, "id": "d-1"})
        record_canary(artifacts.store, "tiny", canary, 25)
        run_stage("smoke_test", run)


def test_a_reused_server_is_tested_again(deployed: Callable[..., Run]) -> None:
    with serving(FakeServer(BASE)) as served:
        run = deployed(served.address)
        point_to(run, "deploy", Output("endpoint", "taken-over", "endpoints/tiny.json", True, {"revision": "d-1"}))
        refused(run, "the base model's")


def test_models_with_equal_answers_are_refused(deployed: Callable[..., Run]) -> None:
    same = [{**prompt, "base_token_ids": prompt["tuned_token_ids"]} for prompt in PROMPTS]
    with serving(FakeServer(TUNED)) as served:
        refused(deployed(served.address, same), "so they cannot be distinguished")


def test_prompts_without_answers_are_skipped(deployed: Callable[..., Run]) -> None:
    full = {**PROMPTS[0], "base_token_ids": [], "tuned_token_ids": []}
    with serving(FakeServer(TUNED)) as served:
        run = deployed(served.address, [full, *PROMPTS[1:]])
        run_stage("smoke_test", run)
    assert json.loads(output_of(run, "smoke_test").read("smoke.json"))["prompts"] == 7
