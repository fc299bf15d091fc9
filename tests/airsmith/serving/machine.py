"""Runs with a merged model, and an inference server whose behaviour a test decides."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.settings import LocalSettings, Settings

SERVER = """\
import http.server, json, os, pathlib, signal, subprocess, sys
arguments = sys.argv[1:]
host, port = (arguments[arguments.index(name) + 1] for name in ("--host", "--port"))
pathlib.Path("started.json").write_text(json.dumps({"arguments": arguments, "environment": dict(os.environ)}))
helper = subprocess.Popen(["sleep", "1000"])

def end(*_):
    helper.kill()
    helper.wait()
    os._exit(0)

signal.signal(signal.SIGTERM, end)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if pathlib.Path("sick").exists() else 200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())

print("loading", flush=True)
BEFORE
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""
"""Stands in for transformers and vLLM alike: it is a whole process group that takes their arguments."""


@dataclass
class Machine:
    """One laptop.

    :ivar python: the interpreter of the stages' environment, which serves.
    """

    folder: Path
    python: Path
    runs: int = 0

    @property
    def store(self) -> Store:
        return Store.open(f"file://{self.folder}/store")

    def settings(self, **local: Any) -> Settings:
        known = {"stages_python": self.python, "state_dir": self.folder / "state"}
        return Settings(
            store=self.store.uri,
            hub_endpoint="http://hub.test",
            local=LocalSettings.model_validate({**known, **local}),
        )

    def server_that(self, before: str = "") -> None:
        """Let servers do this before they listen."""
        self.python.parent.mkdir(exist_ok=True)
        self.python.write_text(f"#!{sys.executable}\n{SERVER.replace('BEFORE', textwrap.dedent(before))}")
        self.python.chmod(0o755)

    def install(self, *distributions: str) -> None:
        """Let the environment hold these."""
        for name in distributions:
            info = self.python.parent.parent / f"lib/python3.11/site-packages/{name}-1.0.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")

    def run(self, merged: str = "m1", files: Path | None = None, **recipe: Any) -> Run:
        """A run that has merged and registered a model.

        :param merged: digest of the model.
        :param files: a folder with the model; otherwise it is one by name only.
        """
        resolved = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": "tests/tiny"},
                "dataset": {"id": "tests/rows", "validation_fraction": 0.1},
                **recipe,
            }
        )
        self.runs += 1
        run = Run(self.store, f"runs/tests/run-{self.runs}")
        run.write_spec(
            RunSpec(
                dag_id="tests", run_id=f"run-{self.runs}", recipe=resolved, recipe_file="tiny.yaml",
                recipe_digest=recipe_digest(resolved), plan=make_plan(resolved), airsmith_version="0",
                created_at=datetime.now(timezone.utc),
            )
        )  # fmt: skip
        folder = f"artifacts/model/{merged}"
        with write_artifact(self.store, folder, type="model", digest=merged, inputs={}, versions={}) as writer:
            writer.add_bytes("name.txt", merged.encode()) if files is None else writer.add_folder(files)
            model = writer.publish()
        StageRecord.begin("merge", run).finish(Output.of_artifact(model), cached=False)
        version = Output("model_version", "v", f"models/tiny/{self.runs}", True, {"version": str(self.runs)})
        StageRecord.begin("register", run).finish(version, cached=False)
        return run
