"""The process of a stage: its log, its exit, its environment, and how it is stopped."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable

import psutil
import pytest

from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process import stage_process as process_module
from airsmith.process.stage_process import StageProcess, bring_to_output, stage_environment, stage_process
from airsmith.settings import Settings

StagesThat = Callable[..., Settings]
STAGE = "mirror_dataset"


def failure_and_log(run: Run, settings: Settings) -> tuple[AirsmithError, list[tuple[int, str]]]:
    """The error of a stage without an output, and the lines of its log."""
    lines: list[tuple[int, str]] = []
    with pytest.raises(AirsmithError) as failure:
        bring_to_output(STAGE, run, settings, lambda level, line: lines.append((level, line)))
    return failure.value, lines


def test_every_line_is_logged_with_its_level(run: Run, stages_that: StagesThat):
    settings = stages_that(
        r"""
        import os, sys
        print("INFO: begun", file=sys.stderr)
        print("plain")
        sys.stdout.flush()
        print("WARNING: careful: twice", file=sys.stderr, flush=True)
        os.write(1, b"\xff\xfe broken UTF-8\n")
        print("ERROR: last, without an end of line", end="", file=sys.stderr)
        """
    )
    _, lines = failure_and_log(run, settings)
    assert lines == [
        (logging.INFO, "begun"),
        (logging.INFO, "plain"),
        (logging.WARNING, "careful: twice"),
        (logging.INFO, "�� broken UTF-8"),
        (logging.ERROR, "last, without an end of line"),
    ]


def test_the_error_of_the_stage_is_raised_and_not_logged_as_json(run: Run, stages_that: StagesThat):
    error = AirsmithError(ErrorKind.BAD_DATA, "The split is empty.", "Name another split.")
    settings = stages_that(f"import sys; print({error.to_json_line()!r}, file=sys.stderr); sys.exit(1)")
    failure, lines = failure_and_log(run, settings)
    assert (failure.kind, failure.message, failure.hint) == (error.kind, error.message, error.hint)
    assert lines == []


def test_an_error_in_the_middle_of_a_line_is_found(run: Run, stages_that: StagesThat):
    error = AirsmithError(ErrorKind.INTERRUPTED, "Stopped.")
    failure, lines = failure_and_log(
        run, stages_that(f"import sys; print('step 3 of', {error.to_json_line()!r}); sys.exit(1)")
    )
    assert failure.kind is ErrorKind.INTERRUPTED
    assert lines == [(logging.INFO, "step 3 of ")]


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", ErrorKind.KILLED, "SIGKILL"),
        ("import os; os.kill(os.getpid(), 15)", ErrorKind.KILLED, "SIGTERM"),
        ("import os; os.kill(os.getpid(), 11)", ErrorKind.INTERNAL, "crashed (SIGSEGV)"),
        ("raise SystemExit(2)", ErrorKind.INTERNAL, "exited with code 2"),
        ("pass", ErrorKind.INTERNAL, "points to no output"),
    ],
)
def test_an_exit_without_an_error_line_is_reported(
    run: Run, stages_that: StagesThat, code: str, kind: ErrorKind, message: str
):
    failure, _ = failure_and_log(run, stages_that(code))
    assert failure.kind is kind
    assert message in failure.message


def test_the_status_of_a_killed_stage_is_failed(run: Run, stages_that: StagesThat):
    failure_and_log(run, stages_that("import os; os.kill(os.getpid(), 9)"))
    status = run.statuses()[STAGE]
    assert status.state == "failed"
    assert "SIGKILL" in status.error


def test_a_kill_by_the_oom_killer_is_reported_as_out_of_memory(
    run: Run, stages_that: StagesThat, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 1\noom_kill 3\n")
    monkeypatch.setattr(process_module, "_KERNEL_COUNTERS", counters)
    code = f"""
        import os, pathlib
        pathlib.Path({str(counters)!r}).write_text("nr_free_pages 1\\noom_kill 4\\n")
        os.kill(os.getpid(), 9)
        """
    failure, _ = failure_and_log(run, stages_that(code))
    assert failure.kind is ErrorKind.OUT_OF_MEMORY
    assert "max_per_device_train_batch_size" in failure.hint


def test_a_missing_interpreter_is_named(run: Run, stages_that: StagesThat):
    failure, _ = failure_and_log(run, stages_that("", stages_python="/nowhere/python"))
    assert failure.kind is ErrorKind.NOT_FOUND
    assert "/nowhere/python" in failure.message


def test_a_stage_can_be_stopped_while_its_log_is_read(run: Run, stages_that: StagesThat):
    settings = stages_that(
        """
        import signal, sys
        def stop(*_):
            print('{"error": "interrupted", "message": "Stopped after a checkpoint.", "hint": ""}', file=sys.stderr)
            sys.exit(1)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        signal.pause()
        """
    )
    with stage_process(STAGE, run, run.read_spec(), settings) as process, pytest.raises(AirsmithError) as failure:
        process.follow(lambda level, line: process.stop())
    assert failure.value.kind is ErrorKind.INTERRUPTED


def test_an_exception_stops_a_stage_that_still_writes(run: Run, stages_that: StagesThat):
    settings = stages_that(
        """
        import os, signal, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        while True:
            print("x" * 1000)
        """,
        kill_grace_seconds=0.2,
    )
    stage: list[psutil.Process] = []

    def fail_at_the_first_line(level: int, line: str) -> None:
        stage.append(psutil.Process(int(line)))
        raise TimeoutError

    with pytest.raises(TimeoutError), stage_process(STAGE, run, run.read_spec(), settings) as process:
        process.follow(fail_at_the_first_line)
    assert not stage[0].is_running()


def test_a_stage_can_be_stopped_from_another_thread(run: Run, stages_that: StagesThat):
    settings = stages_that("import signal; print('ready', flush=True); signal.pause()")
    running: list[StageProcess] = []
    ready = threading.Event()

    def stop_when_ready() -> None:
        ready.wait()
        running[0].stop()

    stopper = threading.Thread(target=stop_when_ready)
    stopper.start()
    with pytest.raises(AirsmithError, match="SIGTERM"):
        bring_to_output(
            STAGE, run, settings, lambda level, line: ready.set(), on_start=lambda process: running.append(process)
        )
    stopper.join()


def test_a_stage_has_no_variables_with_secrets():
    environment = {
        "PATH": "/bin",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgres://user:secret@db",
        "AIRFLOW_CONN_HUB": "secret",
        "_AIRFLOW__AS_LIBRARY": "1",
        "PYTHONPATH": "/airflow",
        "SLACK_API_TOKEN": "secret",
        "MY_HUB_KEY": "hf_secret",
        "HF_TOKEN": "hf_secret",
        "AWS_SECRET_ACCESS_KEY": "needed",
        "AIRSMITH_SCRATCH": "/scratch",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    train = stage_environment(environment, "train", "http://hub.test", None, withheld={"MY_HUB_KEY"})
    assert train == {
        "PATH": "/bin",
        "AWS_SECRET_ACCESS_KEY": "needed",
        "AIRSMITH_SCRATCH": "/scratch",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONUNBUFFERED": "1",
        "HF_ENDPOINT": "http://hub.test",
        "HF_HUB_OFFLINE": "1",
    }
    mirror = stage_environment(environment, "mirror_model", "http://hub.test", "hf_secret", withheld={"MY_HUB_KEY"})
    assert mirror["HF_TOKEN"] == "hf_secret"
    assert not {"MY_HUB_KEY", "SLACK_API_TOKEN", "HF_HUB_OFFLINE"} & set(mirror)


def test_only_stages_that_access_the_hub_have_the_token(
    run: Run, stages_that: StagesThat, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    print_variables = (
        "import json, os; print(json.dumps({name: os.environ.get(name) for name in ('HF_TOKEN', 'HF_HUB_OFFLINE')}))"
    )
    seen = {}
    for stage in ("mirror_model", "tokenize"):
        with stage_process(stage, run, run.read_spec(), stages_that(print_variables)) as process:
            process.follow(lambda level, line, stage=stage: seen.update({stage: json.loads(line)}))
    assert seen == {
        "mirror_model": {"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": None},
        "tokenize": {"HF_TOKEN": None, "HF_HUB_OFFLINE": "1"},
    }


def test_a_stage_runs_in_its_own_session(run: Run, stages_that: StagesThat):
    settings = stages_that("import os; print(os.getsid(0), os.getpgid(0), os.getpid())")
    lines: list[str] = []
    with stage_process(STAGE, run, run.read_spec(), settings) as process:
        process.follow(lambda level, line: lines.append(line))
    session, group, pid = (int(number) for number in lines[0].split())
    assert session == group == pid != os.getsid(0)
