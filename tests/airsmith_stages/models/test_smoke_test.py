"""The smoke test passes where the tuned model is served, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from airsmith_stages.frame import run_stage

from airsmith.contracts.cache import Output
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Revision, read_endpoint, record_canary, record_current
from airsmith.serving.local.endpoint import deploy, stop_endpoint
from airsmith.settings import LocalSettings, Settings
from airsmith_stages.smoke_test import SmokeReport, compare
from models.workshop import Workshop, assert_refused, command, done, exchanges, output_of, tokenizer


def text(*numbers: int) -> str:
    """Letters of one token each, whatever stands beside them."""
    return "".join("QRUVWXYZ"[number] for number in numbers)


def ids(said: str) -> list[int]:
    """What a model generates that says this, its end included."""
    return [*tokenizer()(said)["input_ids"], tokenizer().eos_token_id]


TUNED = [text(n % 8, (n + 1) % 8, (n + 2) % 8) for n in range(8)]
BASE = [text(7 - n % 8, 3, 3, 3, 3, 3) for n in range(8)]
PROMPTS = [
    {
        "messages": [{"role": "user", "content": f"Question {n}"}],
        "prompt": f"<|im_start|>user\nQuestion {n}<|im_end|>\n<|im_start|>assistant\n",
        "prompt_token_ids": [1, 2, 3],
        "base_token_ids": ids(base),
        "tuned_token_ids": ids(tuned),
    }
    for n, (tuned, base) in enumerate(zip(TUNED, BASE, strict=True))
]


@dataclass
class Served:
    """A server of OpenAI's protocol that gives fixed answers.

    :ivar raw: whole answers by path, in place of the right ones: status and body.
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
        asked = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        number = next(n for n in range(len(PROMPTS)) if f"Question {n}" in asked)
        generated = ids(self.answers[number])[: body["max_tokens"]]
        said = tokenizer().decode(generated, skip_special_tokens=True)
        choice = {"message": {"content": said}} if path == "/v1/chat/completions" else {"text": said}
        return 200, json.dumps({"choices": [choice]})


@contextmanager
def serving(served: Served) -> Iterator[Served]:
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
def deployed(workshop: Workshop) -> Callable[..., Run]:
    """A run whose endpoint is at this address."""
    merged = None

    def run(address: str, prompts: list[dict[str, Any]] = PROMPTS, revision: str = "d-1") -> Run:
        nonlocal merged
        if merged is None:
            workshop.base("merged")
            merged = workshop.publish("model", "merged", workshop.folder / "merged")
        record = Revision(id=revision, engine="vllm", address=address, model_name="tiny", model_uri=merged.folder)
        record_current(workshop.store, "tiny", record)
        run = workshop.run(evaluate=workshop.evaluation(f"e-{workshop.runs}", prompts))
        done(run, "deploy", Output("endpoint", "d-1", "endpoints/tiny.json", True))
        return run

    return run


def refused(run: Run, says: str) -> AirsmithError:
    with pytest.raises(AirsmithError, match=says) as refusal:
        run_stage("smoke_test", run)
    assert_refused(refusal.value, run, "smoke_test", "smoke_report")
    return refusal.value


def test_the_real_command_tells_the_tuned_model_from_its_base_on_a_real_server(workshop: Workshop) -> None:
    """`transformers serve`, deployed as a run deploys it, once with either model."""
    base, _ = workshop.base("base"), workshop.base("tuned", seed=8)
    models = {who: workshop.publish("model", f"merged-{who}", workshop.folder / who) for who in ("base", "tuned")}
    settings = Settings(
        store=workshop.store.uri,
        hub_endpoint="http://127.0.0.1:9",
        local=LocalSettings(stages_python=sys.executable, state_dir=workshop.folder / "state"),
    )
    evaluated = workshop.run(mirror_model=base, tokenize=workshop.tokens(asked=exchanges(12)), merge=models["tuned"])
    run_stage("evaluate", evaluated)
    runs = {
        who: workshop.run(
            merge=models[who],
            evaluate=output_of(evaluated, "evaluate"),
            recipe={"name": who, "serve": {"engine": "transformers"}},
        )
        for who in ("base", "tuned")
    }
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run: deploy(run, settings), runs.values()))
        error = refused(runs["base"], "does not serve the tuned model")
        assert "12 of 12 answers are the base model's" in error.message
        command("smoke_test", runs["tuned"])
    finally:
        for who in runs:
            stop_endpoint(workshop.store, who)
    report = json.loads(output_of(runs["tuned"], "smoke_test").read("smoke.json"))
    assert report == {"prompts": 12, "agreement": 1.0, "differing_prompts": 12, "unlike_base": 12}


def test_it_imports_neither_torch_nor_transformers(deployed: Callable[..., Run]) -> None:
    with serving(Served(TUNED)) as served:
        run = deployed(served.address)
        code = (
            "import sys; from airsmith_stages.cli import main; "
            f"assert main(['smoke_test', '--run', {run.uri!r}]) == 0; "
            "print(sorted({'torch', 'transformers', 'peft', 'datasets', 'numpy'} & set(sys.modules)))"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_only_what_is_compared_is_asked_for(deployed: Callable[..., Run]) -> None:
    """16 tokens at most, fewer where both answers are shorter; greedily; plain prompts are sent as they are."""
    long = [{**PROMPTS[0], "base_token_ids": ids(text(*[3] * 30))}, {**PROMPTS[1], "messages": None}]
    with serving(Served(TUNED, models=["tiny"])) as served:
        run_stage("smoke_test", deployed(served.address, long))
    (chat_path, chat), (path, plain) = served.requests[2:]
    assert (chat_path, path) == ("/v1/chat/completions", "/v1/completions")
    assert (chat["messages"], plain["prompt"]) == (PROMPTS[0]["messages"], PROMPTS[1]["prompt"])
    assert (chat["max_tokens"], plain["max_tokens"]) == (16, len(PROMPTS[1]["base_token_ids"]))
    assert {(body["model"], body["temperature"]) for body in (chat, plain)} == {("tiny", 0)}


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (Served(BASE), "does not serve the tuned model: 8 of 8 answers are the base model's"),
        (Served([*TUNED[:7], BASE[7]]), "1 of 8 answers are the base model's"),
        (Served(["!!!"] * 8), r"only 0\.0% of the tokens are the tuned model's"),
        (Served(TUNED, models=["other", "more"]), "it serves other, more, not tiny"),
        (Served([f"{said}!" for said in TUNED]), "of the tokens are the tuned model's"),
        (Served([""] * 8), r"only 0\.0% of the tokens"),
        (Served(TUNED, raw={"/health": (503, "loading")}), "does not answer: /health gave HTTP 503: loading"),
        (Served(TUNED, raw={"/v1/models": (404, "")}), "/v1/models gave HTTP 404"),
        (Served(TUNED, raw={"/v1/models": (200, "<html>")}), "/v1/models gave no answer of OpenAI's protocol: <html>"),
        (Served(TUNED, raw={"/v1/models": (200, "[]")}), "/v1/models gave no answer of OpenAI's protocol"),
        (Served(TUNED, raw={"/v1/chat/completions": (200, '{"choices": []}')}), "gave no answer of OpenAI's protocol"),
        (Served(TUNED, raw={"/v1/chat/completions": (400, "no such model")}), "HTTP 400: no such model"),
    ],
    ids=[
        "the base", "the base once", "another", "other names", "does not stop", "silence", "not healthy", "no list",
        "a web page", "not the protocol", "no choice", "refused",
    ],
)  # fmt: skip
def test_what_is_not_the_tuned_model_is_refused(deployed: Callable[..., Run], served: Served, says: str) -> None:
    with serving(served):
        error = refused(deployed(served.address), says)
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "Endpoint tiny" in error.message


def test_an_endpoint_that_is_not_there_is_refused(deployed: Callable[..., Run]) -> None:
    with serving(Served(TUNED)) as served:
        pass
    error = refused(deployed(served.address), f"Endpoint tiny at {served.address} does not answer: .*refused")
    assert error.hint == "Clear deploy so that it is started again."


def test_an_endpoint_that_another_run_has_taken_is_refused(deployed: Callable[..., Run]) -> None:
    with serving(Served(TUNED)) as served:
        assert refused(deployed(served.address, revision="d-2"), "deployed").kind is ErrorKind.NOT_FOUND


def test_a_version_that_has_a_share_is_asked_where_it_answers_alone(
    deployed: Callable[..., Run], workshop: Workshop
) -> None:
    with serving(Served(TUNED)) as served, serving(Served(BASE)) as other:
        run = deployed(other.address, revision="d-0")
        stable = read_endpoint(workshop.store, "tiny")
        assert stable is not None
        canary = stable.current.model_copy(update={"address": served.address, "id": "d-1"})
        record_canary(workshop.store, "tiny", canary, 25)
        run_stage("smoke_test", run)


def test_a_server_that_takes_over_is_proved_again(deployed: Callable[..., Run]) -> None:
    with serving(Served(BASE)) as served:
        run = deployed(served.address)
        done(run, "deploy", Output("endpoint", "taken-over", "endpoints/tiny.json", True, {"revision": "d-1"}))
        refused(run, "the base model's")


def test_models_that_answer_alike_prove_nothing(deployed: Callable[..., Run]) -> None:
    same = [{**prompt, "base_token_ids": prompt["tuned_token_ids"]} for prompt in PROMPTS]
    with serving(Served(TUNED)) as served:
        refused(deployed(served.address, same), "alike, so nothing can be proved")


def test_prompts_that_neither_model_could_answer_are_left_out(deployed: Callable[..., Run]) -> None:
    full = {**PROMPTS[0], "base_token_ids": [], "tuned_token_ids": []}
    with serving(Served(TUNED)) as served:
        run = deployed(served.address, [full, *PROMPTS[1:]])
        run_stage("smoke_test", run)
    assert json.loads(output_of(run, "smoke_test").read("smoke.json"))["prompts"] == 7


class TestAgreement:
    """Of the first 16 tokens, those up to and including the first difference count."""

    def report(self, pairs: Mapping[str, str], base: str = text(3, 3)) -> SmokeReport:
        """:param pairs: what is served, by what was evaluated."""
        prompts = [{"tuned_token_ids": ids(tuned), "base_token_ids": ids(base)} for tuned in pairs]
        return compare(prompts, list(pairs.values()), tokenizer().backend_tokenizer)

    def test_all_agree(self) -> None:
        assert self.report({text(1, 2): text(1, 2), text(4): text(4)}) == SmokeReport(2, 1.0, 2, 2)

    def test_nothing_counts_behind_a_difference(self) -> None:
        assert self.report({text(1, 2, 4, 5, 6, 7): text(1, 2, 0, 5, 6, 7)}).agreement == 2 / 3

    def test_an_answer_that_ends_early_or_late_differs_once(self) -> None:
        assert self.report({text(1, 2, 4): text(1, 2)}).agreement == 2 / 3
        assert self.report({text(1, 2): text(1, 2, 4)}).agreement == 2 / 3

    def test_one_early_branch_in_many_answers_is_forgiven(self) -> None:
        long = [text(*[(n + m) % 8 for m in range(16)]) for n in range(8)]
        served = {said: said for said in long} | {long[3]: long[3][:-4] + text(3, 3)}
        assert 0.95 < self.report(served).agreement < 1

    def test_only_sixteen_tokens_count(self) -> None:
        begin = text(*[4, 5] * 8)
        assert self.report({f"{begin} {text(1, 2)}": begin}).agreement == 1

    def test_models_that_part_after_sixteen_tokens_count_as_alike(self) -> None:
        begin = text(*[4, 5] * 8)
        report = self.report({f"{begin} {text(1)}": begin}, base=f"{begin} {text(2)}")
        assert (report.differing_prompts, report.unlike_base) == (0, 0)

    def test_white_space_around_an_answer_does_not_count(self) -> None:
        assert self.report({f" {text(1, 2)}\n": text(1, 2)}).agreement == 1

    def test_tokens_that_a_text_would_not_have_are_no_difference(self) -> None:
        """A model may spell a word in pieces; the server's text does not show it."""
        pieces = [token for letter in "kettle" for token in tokenizer()(letter)["input_ids"]]
        assert len(pieces) > len(tokenizer()("kettle")["input_ids"])
        prompts = [{"tuned_token_ids": pieces, "base_token_ids": ids("cat")}]
        assert compare(prompts, ["kettle"], tokenizer().backend_tokenizer).agreement == 1
