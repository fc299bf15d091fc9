"""The last line of a failed stage's log: one error with its kind, message and hint."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages import failures
from airsmith_stages.failures import as_airsmith_error
from tests.support.data_stages import DataStages


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (AirsmithError(ErrorKind.BAD_DATA, "Row 3 is invalid.", "Correct it."), ErrorKind.BAD_DATA, "Row 3"),
        (MemoryError(), ErrorKind.OUT_OF_MEMORY, "memory"),
        (RuntimeError("CUDA out of memory. Tried"), ErrorKind.OUT_OF_MEMORY, "CUDA"),
        (OSError(errno.ENOSPC, "No space left on device"), ErrorKind.DISK_FULL, "No space"),
        (OSError(errno.EFBIG, "File too large"), ErrorKind.DISK_FULL, "too large"),
        (OSError("Not enough disk space. Needed: 3 GiB"), ErrorKind.DISK_FULL, "3 GiB"),
        (ValueError("I/O error: No space left on device (os error 28)"), ErrorKind.DISK_FULL, "No space"),
        (OSError(errno.ENOENT, "No such file"), ErrorKind.INTERNAL, "FileNotFoundError"),
        (ValueError("(os error 2)"), ErrorKind.INTERNAL, "ValueError"),
        (failures.StopRequested(), ErrorKind.INTERRUPTED, "SIGTERM"),
        (KeyboardInterrupt(), ErrorKind.INTERRUPTED, "keyboard"),
        (KeyError("x"), ErrorKind.INTERNAL, "KeyError"),
    ],
)
def test_every_exception_has_an_error_kind(failure: BaseException, kind: ErrorKind, words: str) -> None:
    error = as_airsmith_error(failure)
    assert error.kind is kind
    assert words in error.message
    assert error.hint


def test_the_cause_of_an_exception_determines_its_kind() -> None:
    failure = RuntimeError("could not write the cache")
    failure.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(AirsmithError, match="No space left") as raised, failures.stage_errors():
        raise failure
    assert raised.value.kind is ErrorKind.DISK_FULL


def test_the_error_line_of_a_crash_follows_its_traceback() -> None:
    code = (
        "import sys; from airsmith_stages.failures import exit_code_of\n"
        "def work(): print('out'); raise KeyError('lost')\n"
        "sys.exit(exit_code_of(work))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    *before, last = result.stderr.splitlines()
    assert json.loads(last) == {
        "error": "internal",
        "message": "KeyError: 'lost'",
        "hint": "See the traceback in the log.",
    }
    assert "Traceback" in before[0]
    assert result.stdout == "out\n"


def test_the_error_line_is_written_to_the_termination_log(tmp_path: Path) -> None:
    reason = tmp_path / "termination-log"
    reason.touch()
    code = (
        "import sys; from pathlib import Path; from airsmith_stages import failures\n"
        "failures.TERMINATION_LOG = Path(sys.argv[1])\n"
        "def work(): raise OSError(28, 'No space left on device')\n"
        "sys.exit(failures.exit_code_of(work))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(reason)], capture_output=True, text=True, check=False)
    assert reason.read_text() == result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("uri", ["file:///nowhere", "nonsense"])
def test_an_invalid_run_uri_is_reported(data_stages: DataStages, uri: str) -> None:
    error = data_stages.fork_server.run(["tokenize", "--run", uri], data_stages.folder).error
    assert error.kind is ErrorKind.NOT_FOUND
    assert uri in error.message


def test_a_run_without_a_spec_is_reported(data_stages: DataStages) -> None:
    error = data_stages.run_command("tokenize", Run(data_stages.store, "runs/tests/unresolved")).error
    assert error.kind is ErrorKind.NOT_FOUND
    assert "spec.json" in error.message


def test_an_unknown_stage_is_a_usage_error(data_stages: DataStages) -> None:
    command = [sys.executable, "-m", "airsmith_stages.cli", "polish", "--run", "file:///store/runs/a/b"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "polish" in result.stderr
