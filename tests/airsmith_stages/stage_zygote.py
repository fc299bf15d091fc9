"""The stages' command in processes forked from one that has its libraries loaded: the real thing, started at once.

A request may ask that the process gets a signal right before a call into some package: every moment is reached by
counting, none by sleeping.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from airsmith.errors import AirsmithError

PRELOADED = (
    "airsmith_stages.cli", "airsmith_stages.mirror_model", "airsmith_stages.mirror_dataset", "airsmith_stages.tokenize",
    "airsmith_stages.mirroring.hub_source", "datasets.packaged_modules.json.json",
    "transformers.models.llama.modeling_llama",
)  # fmt: skip


@dataclass(frozen=True)
class Trap:
    """A signal right before a call into a package.

    :param package: part of the path of the files whose calls count; a generator that goes on counts as called.
    :param call: which of them.
    """

    call: int
    signum: int = signal.SIGKILL
    package: str = "/airsmith/artifacts/"


@dataclass(frozen=True)
class Ended:
    """How a command has ended.

    :param code: as in `subprocess`: negative for a signal.
    :param calls: calls into the trap's package, where it went through them all.
    """

    code: int
    stderr: str
    calls: int = 0

    @property
    def error(self) -> AirsmithError:
        """The error that its last line tells."""
        assert self.code == 1, self.stderr
        error = AirsmithError.from_json_line(self.stderr.splitlines()[-1])
        assert error is not None, self.stderr
        return error


class Zygote:
    """Forks a process for each command."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Zygote]:
        """Start it; ended with the block."""
        path = [str(Path(__file__).parent), *sys.path]
        with subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        ) as process:
            yield cls(process)
            assert process.stdin is not None
            process.stdin.close()

    def __call__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        trap: Trap | None = None,
        largest_file_bytes: int | None = None,
        user: int | None = None,
        hub_waits: bool = True,
    ) -> Ended:
        """Run a command to its end.

        :param folder: for its log, and its working directory.
        :param largest_file_bytes: what the process may write into one file.
        :param user: effective user id.
        :param hub_waits: whether the Hub's own client waits between its tries, 23 s in all.
        """
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": environment or {},
            "trap": asdict(trap) if trap else None,
            "largest_file_bytes": largest_file_bytes,
            "user": user,
            "hub_waits": hub_waits,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Ended(answer["code"], (folder / "stderr").read_text(), answer["calls"])


def _serve() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request["folder"])
        (folder / "calls").write_text("0")
        process = os.fork()
        if process == 0:
            os._exit(_run(request, folder))
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps({"code": code, "calls": int((folder / "calls").read_text())}), flush=True)


def _run(request: dict[str, Any], folder: Path) -> int:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    from airsmith_stages.cli import main

    # A developer's own token reaches no test.
    os.environ.update({"HF_TOKEN_PATH": "/nonexistent", **request["environment"]})
    importlib.reload(constants)  # The Hub's address is read when this module is loaded.
    with (folder / "stderr").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if request["largest_file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file_bytes"],) * 2)
    if request["user"] is not None:
        os.seteuid(request["user"])
    if not request["hub_waits"]:
        _http.time = SimpleNamespace(**{**vars(_http.time), "sleep": lambda seconds: None})
    if request["trap"] is None:
        return main(request["arguments"])
    return _run_trapped(Trap(**request["trap"]), request["arguments"], folder / "calls")


def _run_trapped(trap: Trap, arguments: list[str], counted: Path) -> int:
    from airsmith_stages.cli import main

    calls = itertools.count(1)

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and trap.package in frame.f_code.co_filename and next(calls) == trap.call:
            os.kill(os.getpid(), trap.signum)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        return main(arguments)
    finally:
        sys.setprofile(None)
        counted.write_text(str(next(calls) - 1))


if __name__ == "__main__":
    _serve()
