"""The `airsmith-stage` command in processes forked from one that has already imported its libraries.

A request may send the process a signal right before a call into a package, so that a test reaches a moment by counting
calls and not by sleeping.
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
class SignalAtCall:
    """A signal right before a call into a package.

    :param call: the number of the call, from 1.
    :param package: part of the path of the files whose calls count; resuming a generator counts as a call.
    """

    call: int
    signum: int = signal.SIGKILL
    package: str = "/airsmith/artifacts/"


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    :param returncode: as in `subprocess`: negative for a signal.
    :param calls: the calls into the counted package, if the command ran to its end.
    """

    returncode: int
    stderr: str
    calls: int = 0

    @property
    def error(self) -> AirsmithError:
        """The error in the last line of the log."""
        assert self.returncode == 1, self.stderr
        error = AirsmithError.from_json_line(self.stderr.splitlines()[-1])
        assert error is not None, self.stderr
        return error


class StageForkServer:
    """Forks a process for each command."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[StageForkServer]:
        """Start the server; it exits with the block."""
        with subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as process:
            yield cls(process)
            assert process.stdin is not None
            process.stdin.close()

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        signal_at: SignalAtCall | None = None,
        max_file_bytes: int | None = None,
        user: int | None = None,
        hub_waits: bool = True,
    ) -> CommandResult:
        """Run a command and wait for it.

        :param folder: where the log goes.
        :param max_file_bytes: the largest file that the process may write.
        :param user: effective user ID.
        :param hub_waits: whether the Hub's client waits between its attempts, 23 s in all.
        """
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": environment or {},
            "signal_at": asdict(signal_at) if signal_at else None,
            "max_file_bytes": max_file_bytes,
            "user": user,
            "hub_waits": hub_waits,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return CommandResult(answer["returncode"], (folder / "stderr").read_text(), answer["calls"])


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
        returncode = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps({"returncode": returncode, "calls": int((folder / "calls").read_text())}), flush=True)


def _run(request: dict[str, Any], folder: Path) -> int:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    from airsmith_stages.cli import main

    # No test may use a developer's own token.
    os.environ.update({"HF_TOKEN_PATH": "/nonexistent", **request["environment"]})
    importlib.reload(constants)  # The module reads the Hub's address at import.
    with (folder / "stderr").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if request["max_file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_file_bytes"],) * 2)
    if request["user"] is not None:
        os.seteuid(request["user"])
    if not request["hub_waits"]:
        _http.time = SimpleNamespace(**{**vars(_http.time), "sleep": lambda seconds: None})
    if request["signal_at"] is None:
        return main(request["arguments"])
    return _run_with_signal(SignalAtCall(**request["signal_at"]), request["arguments"], folder / "calls")


def _run_with_signal(signal_at: SignalAtCall, arguments: list[str], count_file: Path) -> int:
    from airsmith_stages.cli import main

    calls = itertools.count(1)

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and signal_at.package in frame.f_code.co_filename and next(calls) == signal_at.call:
            os.kill(os.getpid(), signal_at.signum)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        return main(arguments)
    finally:
        sys.setprofile(None)
        count_file.write_text(str(next(calls) - 1))


if __name__ == "__main__":
    _serve()
