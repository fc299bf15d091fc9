"""A stage as a process on this machine: started, followed line by line, stopped together with its child processes."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import StageRecord, reuse_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import HUB_STAGES
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process import guard
from airsmith.process.hub_token import ReadConnection, hub_token, no_connections
from airsmith.settings import Settings

LogLine = Callable[[int, str], None]
"""Takes a level of `logging` and a line of a stage's log."""

_AIRFLOW_VARIABLE = re.compile(r"_?AIRFLOW|PYTHON|VIRTUAL_ENV$")
_SECRET_VARIABLE = re.compile(r"(?!AWS_|AIRSMITH_|MLFLOW_).*(TOKEN|PASSWORD|SECRET|API_KEY)")
"""Names of secrets, except those of the store and the tracking server."""

_LEVEL_PREFIX = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL): ")
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
_KERNEL_COUNTERS = Path("/proc/vmstat")


def bring_to_output(
    stage: str,
    run: Run,
    settings: Settings,
    log_line: LogLine,
    *,
    read_connection: ReadConnection = no_connections,
    on_start: Callable[[StageProcess], None] = lambda _: None,
) -> StagePointer:
    """Point to a stage's output if it exists; otherwise run the stage.

    :param read_connection: reads the Hub's token if it is an Airflow connection's password.
    :param on_start: called with the running process, so that the caller can stop it from elsewhere.
    :raises AirsmithError: of the kind that the stage reports or its exit code implies.
    """
    spec = run.read_spec()
    reused = reuse_output(stage, run, spec)
    if reused is not None:
        log_line(logging.INFO, f"Reusing {run.store.uri}/{reused.location}: nothing that determines it has changed.")
        return reused
    with stage_process(stage, run, spec, settings, read_connection) as process:
        on_start(process)
        process.follow(log_line)
    pointer = run.pointer(stage)
    if pointer is None:
        raise AirsmithError(ErrorKind.INTERNAL, f"Stage {stage} exited with code 0 but points to no output.")
    return pointer


@contextmanager
def stage_process(
    stage: str, run: Run, spec: RunSpec, settings: Settings, read_connection: ReadConnection = no_connections
) -> Iterator[StageProcess]:
    """Start a stage; at the end of the block, the process and its child processes are stopped.

    :param read_connection: reads the Hub's token, which only the stages that use the Hub receive.
    :raises AirsmithError: `not_found` if the stages' interpreter is missing, `access_denied` if the token is.
    """
    token = hub_token(spec.recipe, settings, read_connection) if stage in HUB_STAGES else None
    reference = spec.recipe.secrets.hf_token
    withheld = {reference.environment} if reference and reference.environment else set()
    environment = stage_environment(os.environ, stage, settings.hub_endpoint, token, withheld)
    process = StageProcess.start(stage, run, settings, environment)
    try:
        yield process
    finally:
        process.end()


@dataclass(frozen=True)
class StageProcess:
    """A stage's process behind its guard, which stops it if this process dies."""

    record: StageRecord
    guard: subprocess.Popen[bytes]
    oom_kills_before: int = field(default_factory=lambda: _oom_kills())

    @classmethod
    def start(cls, stage: str, run: Run, settings: Settings, environment: Mapping[str, str]) -> StageProcess:
        """Start the process; see `stage_process`, which also stops it."""
        command = [str(settings.stages_python()), "-m", "airsmith_stages.cli", stage, "--run", run.uri]
        grace = str(settings.local.kill_grace_seconds)
        record = StageRecord.start(stage, run)
        return cls(
            record,
            subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, grace, *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            ),
        )

    def follow(self, log_line: LogLine) -> None:
        """Forward the stage's log until it exits.

        :raises AirsmithError: if it exits without an output; the kind is the one reported or implied by the exit code.
        """
        assert self.guard.stdout is not None
        error = None
        for raw in self.guard.stdout:
            line, reported = _split_error(raw.decode(errors="replace").rstrip())
            error = reported or error
            if line:
                log_line(*_level_and_text(line))
        code = self.guard.wait()
        if code != 0:
            raise error or self._unexplained(code)

    def stop(self) -> None:
        """Request a stop and return at once; safe in a signal handler. `follow` returns when the stage has exited."""
        assert self.guard.stdin is not None
        self.guard.stdin.close()

    def end(self) -> None:
        """Stop the process if it is still running, and wait for it."""
        self.stop()
        assert self.guard.stdout is not None
        while self.guard.stdout.read(guard.CHUNK_BYTES):
            pass
        self.guard.wait()

    def _unexplained(self, code: int) -> AirsmithError:
        """The error of a stage that exited without reporting one, recorded in the run's folder on its behalf."""
        error = _error_of_end(self.record.stage, code, out_of_memory=_oom_kills() > self.oom_kills_before)
        self.record.fail(error)
        return error


def stage_environment(
    environment: Mapping[str, str], stage: str, hub_endpoint: str, hub_token: str | None, withheld: Collection[str] = ()
) -> dict[str, str]:
    """Environment of a stage's process: this process's, without Airflow's variables and without secrets.

    :param withheld: names of further variables that hold a secret.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not _AIRFLOW_VARIABLE.match(name) and not _SECRET_VARIABLE.match(name) and name not in withheld
    }
    kept["PYTHONUNBUFFERED"] = "1"
    kept["HF_ENDPOINT"] = hub_endpoint
    if stage not in HUB_STAGES:
        return {**kept, "HF_HUB_OFFLINE": "1"}
    return {**kept, "HF_TOKEN": hub_token} if hub_token else kept


def _split_error(line: str) -> tuple[str, AirsmithError | None]:
    """The stage's error in a line, and the text before it: a stage may be stopped in the middle of a line."""
    text, key, rest = line.partition('{"error":')
    error = AirsmithError.from_json_line(key + rest)
    return (line, None) if error is None else (text, error)


def _level_and_text(line: str) -> tuple[int, str]:
    match = _LEVEL_PREFIX.match(line)
    if match is None:
        return logging.INFO, line
    return int(getattr(logging, match[1])), line[match.end() :]


def _error_of_end(stage: str, code: int, *, out_of_memory: bool) -> AirsmithError:
    if code <= 128:
        return AirsmithError(
            ErrorKind.INTERNAL,
            f"Stage {stage} exited with code {code} and reported no reason.",
            "See the last lines of its log.",
        )
    name = signal.Signals(code - 128).name
    if code - 128 in _CRASHES:
        return AirsmithError(
            ErrorKind.INTERNAL, f"The process of stage {stage} crashed ({name}).", "See the last lines of its log."
        )
    if code - 128 == signal.SIGKILL and out_of_memory:
        return AirsmithError(
            ErrorKind.OUT_OF_MEMORY,
            f"The kernel killed the process of stage {stage} because the machine ran out of memory.",
            "Lower training.max_per_device_train_batch_size or dataset.max_length, or use a machine with more memory.",
        )
    return AirsmithError(
        ErrorKind.KILLED,
        f"The process of stage {stage} was killed by another process ({name}).",
        "Run it again: training resumes from its newest checkpoint.",
    )


def _oom_kills() -> int:
    """Number of processes that the kernel has killed for lack of memory since boot; 0 if unknown."""
    try:
        counters = dict(line.split() for line in _KERNEL_COUNTERS.read_text().splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))
