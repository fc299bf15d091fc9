"""A fake model server that starts at once and reports which version answers.

It replaces vLLM in an endpoint's pods; everything else, the smoke test included, is unchanged.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from airsmith.artifacts.layout import artifact_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import ArtifactType
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.registry import ModelVersionDraft, register_version
from airsmith.serving.cluster import server_pod
from airsmith.serving.cluster.containers import MODEL_FOLDER, PORT
from airsmith.serving.cluster.served_model import ServedModel
from airsmith.settings import Settings

MODEL = "parrot"
QUESTIONS = [f"question {number}" for number in range(4)]
WORDS = ["<unk>", "base", "version", *"0123456789", *"abcd"]

SERVER = f"""\
import http.server, json, os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
folder = pathlib.Path(__file__).parent
config = json.loads((folder / "server.json").read_text())
if config["startup_error"]:
    print(config["startup_error"], file=sys.stderr)
    sys.exit(2)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({{"data": [{{"id": sys.argv[1]}}], "version": config["version"]}})

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        self.reply({{"choices": [{{"message": {{"content": config["answers"][question]}}}}]}})

    def reply(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", {PORT}), Handler).serve_forever()
"""


@dataclass(frozen=True)
class FakeVersions:
    """Registers versions of one model."""

    store: Store

    def register(self, *, answers_as_base: bool = False, startup_error: str = "", **serve: Any) -> int:
        """Register a version with its artifacts and return its number.

        :param answers_as_base: whether its server gives the base model's answers.
        :param startup_error: its server prints this and exits.
        """
        digest = uuid.uuid4().hex
        number = len([info for info in self.store.list(f"models/{MODEL}") if info.path.endswith("version.json")]) + 1
        tuned = {question: f"version {number} {'abcd'[place]}" for place, question in enumerate(QUESTIONS)}
        base = {question: f"base {'abcd'[place]}" for place, question in enumerate(QUESTIONS)}
        config = {"version": number, "startup_error": startup_error, "answers": base if answers_as_base else tuned}
        model = {
            "server.py": SERVER,
            "server.json": json.dumps(config),
            "config.json": "{}",
            "tokenizer.json": TOKENIZER,
        }
        prompts = [prompt(question, tuned[question], base[question]) for question in QUESTIONS]
        outputs = {
            "merge": self._publish(ArtifactType.MODEL, digest, model),
            "evaluate": self._publish(ArtifactType.EVALUATION, digest, {"fixed_prompts.json": json.dumps(prompts)}),
        }
        run = self._run(digest, serve)
        for stage, artifact in outputs.items():
            StageRecord.start(stage, run).finish(Output.of_artifact(artifact), cached=False)
        draft = ModelVersionDraft(
            digest=digest, model=outputs["merge"].folder, evaluation=outputs["evaluate"].folder, run=run.path,
            base_model="artifacts/base_model/none", base={"id": "tests/none"}, recipe_digest=digest,
        )  # fmt: skip
        version = register_version(self.store, MODEL, draft).version
        registered = Output(ArtifactType.MODEL_VERSION, digest, "models", True, {"version": str(version)})
        StageRecord.start("register", run).finish(registered, cached=False)
        assert version == number
        return version

    def _run(self, name: str, serve: dict[str, Any]) -> Run:
        recipe = Recipe.model_validate(
            {
                "name": MODEL,
                "model": {"id": "tests/none", "revision": "a" * 40},
                "dataset": {"id": "tests/none", "revision": "b" * 40, "validation_fraction": 0.1},
                "serve": serve,
            }
        )
        run = Run(self.store, f"runs/tests/{name}")
        run.write_spec(
            RunSpec(
                dag_id="tests", run_id=name, recipe=recipe, recipe_file="parrot.yaml",
                recipe_digest=recipe_digest(recipe), plan=make_plan(recipe), airsmith_version="0",
                created_at=datetime.now(timezone.utc),
            )
        )  # fmt: skip
        return run

    def _publish(self, kind: str, digest: str, files: dict[str, str]) -> Artifact:
        folder = artifact_folder(kind, digest)
        with write_artifact(self.store, folder, type=kind, digest=digest, inputs={}, versions={}) as writer:
            for name, text in files.items():
                writer.add_bytes(name, text.encode())
            return writer.publish()


def use_fake_servers() -> None:
    """Replace the server container of all endpoints that this process deploys."""
    original = server_pod._server

    def server(model: ServedModel, settings: Settings) -> dict[str, Any]:
        container = original(model, settings)
        probe = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1}
        return {
            **container,
            "image": settings.image("cpu").reference,
            "command": ["python", f"{MODEL_FOLDER}/server.py", model.model_name],
            "args": [],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
            "startupProbe": {**probe, "failureThreshold": 60},
            "readinessProbe": probe,
        }

    server_pod._server = server  # type: ignore[assignment]


def prompt(question: str, tuned: str, base: str) -> dict[str, Any]:
    """A prompt for the smoke test, as `evaluate` writes it."""
    return {
        "messages": [{"role": "user", "content": question}],
        "prompt": "",
        "prompt_token_ids": [],
        "tuned_token_ids": [WORDS.index(word) for word in tuned.split()],
        "base_token_ids": [WORDS.index(word) for word in base.split()],
    }


TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: id for id, word in enumerate(WORDS)}, "unk_token": "<unk>"},
    }
)
"""Its tokens are whole words."""
