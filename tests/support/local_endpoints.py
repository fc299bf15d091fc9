"""Endpoints on this machine: runs with a merged model, and an inference server that a test configures."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.run import Run
from airsmith.settings import LocalSettings, Settings
from tests.support.environments import write_distributions, write_interpreter
from tests.support.recipes import new_recipe
from tests.support.runs import finish_stage_with, new_run, publish_artifact

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
"""Stands in for `transformers serve` and vLLM: a process group that accepts their arguments."""


@dataclass
class LocalHost:
    """A store, runs and endpoints on this machine.

    :ivar python: interpreter of the stages' environment, which runs the servers.
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

    def install_server(self, before: str = "") -> None:
        """Install the stand-in server.

        :param before: code that it runs before it listens.
        """
        write_interpreter(self.python, SERVER.replace("BEFORE", textwrap.dedent(before)))

    def install(self, *distributions: str) -> None:
        """Add distributions to the environment."""
        write_distributions(self.python.parent.parent, *distributions)

    def new_run(self, merged: str = "m1", files: Path | None = None, **recipe: Any) -> Run:
        """A run that has merged and registered a model.

        :param merged: digest of the model.
        :param files: a folder with the model; by default the model is a text file.
        :param recipe: sections of the recipe.
        """
        self.runs += 1
        run = new_run(
            self.store, f"run-{self.runs}", new_recipe(**{"name": "tiny", "model": {"id": "tests/tiny"}, **recipe})
        )
        model = publish_artifact(self.store, "model", merged, files or {"name.txt": merged.encode()})
        finish_stage_with(run, "merge", model)
        version = Output("model_version", "v", f"models/tiny/{self.runs}", True, {"version": str(self.runs)})
        finish_stage_with(run, "register", version)
        return run


def new_local_host(folder: Path) -> LocalHost:
    """A host with the stand-in server installed."""
    host = LocalHost(folder, folder / "venv" / "bin" / "python")
    host.install_server()
    return host
