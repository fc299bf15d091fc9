"""The local operators: kill, timeout, failure, and reuse of an existing output."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from airsmith.airflow.operators.local import LocalDeployOperator, LocalStageOperator, connection_password
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.stage_errors import AccessDeniedError, BadDataError, StageInterruptedError, StageKilledError
from airsmith.settings import Settings
from tests.support.runs import publish_artifact

StagesThat = Callable[..., Settings]
STAGE = "mirror_dataset"

WRITE_PID_AND_WAIT = """
    import os, pathlib, signal, sys
    def stop(*_):
        print('{"error": "interrupted", "message": "Stopped after a checkpoint.", "hint": "Run it again."}', flush=True)
        sys.exit(1)
    signal.signal(signal.SIGTERM, stop)
    pathlib.Path(PID_FILE).write_text(str(os.getpid()))
    print("ready", flush=True)
    while True:
        signal.pause()
    """


@pytest.fixture
def use_stages_that(stages_that: StagesThat, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets variables by which the worker's stages run the given code."""

    def use(code: str) -> None:
        settings = stages_that(code)
        monkeypatch.setenv("AIRSMITH_STORE", settings.store)
        monkeypatch.setenv("AIRSMITH_LOCAL__STAGES_PYTHON", str(settings.local.stages_python))
        monkeypatch.setenv("AIRSMITH_LOCAL__KILL_GRACE_SECONDS", "10")

    return use


@pytest.fixture
def operator(run: Run) -> LocalStageOperator:
    return LocalStageOperator(task_id=STAGE, stage=STAGE, run_uri=run.uri)


@pytest.fixture
def on_sigterm() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Sets a function that SIGTERM calls, as Airflow's task runner calls `on_kill`."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda on_kill: signal.signal(signal.SIGTERM, lambda *_: on_kill())
    signal.signal(signal.SIGTERM, before)


def test_killing_the_task_stops_its_stage_gracefully(
    operator: LocalStageOperator, use_stages_that, on_sigterm, tmp_path: Path
):
    pid_file = tmp_path / "pid"
    use_stages_that(WRITE_PID_AND_WAIT.replace("PID_FILE", repr(str(pid_file))))
    on_sigterm(operator.on_kill)
    killer = threading.Thread(target=send_sigterm_once, args=(pid_file,))
    killer.start()
    with pytest.raises(StageInterruptedError, match="Stopped after a checkpoint"):
        operator.execute({})
    killer.join()
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_an_execution_timeout_stops_the_stage(operator: LocalStageOperator, use_stages_that, tmp_path: Path):
    pid_file = tmp_path / "pid"
    use_stages_that(WRITE_PID_AND_WAIT.replace("PID_FILE", repr(str(pid_file))))
    with pytest.raises(AirflowTaskTimeout), timeout(1):
        operator.execute({})
    operator.on_kill()
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_a_failure_has_the_class_of_its_kind_and_logs_the_hint(
    operator: LocalStageOperator, use_stages_that, capsys: pytest.CaptureFixture[str]
):
    error = AirsmithError(ErrorKind.BAD_DATA, "The split is empty.", "Name another split.")
    use_stages_that(f"import sys; print({error.to_json_line()!r}, file=sys.stderr); sys.exit(1)")
    with pytest.raises(BadDataError, match="The split is empty") as failure:
        operator.execute({})
    assert failure.value.hint == "Name another split."
    log = capsys.readouterr().out
    assert "[error    ] The split is empty." in log
    assert "[error    ] What to do: Name another split." in log


def test_a_stage_killed_by_sigkill_is_reported_as_killed(operator: LocalStageOperator, use_stages_that):
    use_stages_that("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(StageKilledError):
        operator.execute({})


def test_an_existing_output_is_reused_without_a_process(run: Run, operator: LocalStageOperator, use_stages_that):
    use_stages_that("raise SystemExit('this process must not start')")
    output = look_up_output(run, run.read_spec(), STAGE)
    publish_artifact(run.store, output.type, output.digest, {"train.jsonl": b"{}\n"})
    operator.execute({})
    pointer = run.pointer(STAGE)
    assert pointer is not None
    assert (pointer.cached, pointer.location) == (True, output.location)
    assert run.statuses()[STAGE].state == "cached"


def test_a_missing_input_names_its_stage(run: Run, use_stages_that):
    use_stages_that("pass")
    with pytest.raises(AirsmithError, match="Stage tokenize needs the output of mirror_model"):
        LocalStageOperator(task_id="tokenize", stage="tokenize", run_uri=run.uri).execute({})


def test_the_password_of_a_connection_is_the_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW_CONN_HUB", '{"conn_type": "http", "password": "hf_secret"}')
    assert connection_password("hub") == "hf_secret"
    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", '{"conn_type": "http"}')
    for connection in ("empty", "absent"):
        with pytest.raises(AirsmithError, match=f"'{connection}' must hold the Hub's token") as failure:
            connection_password(connection)
        assert failure.value.kind is ErrorKind.ACCESS_DENIED


def test_killing_the_task_cancels_the_deployment(
    run: Run, use_stages_that, on_sigterm, monkeypatch: pytest.MonkeyPatch
):
    use_stages_that("pass")
    cleaned_up = []

    def deploy(*_: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except AirsmithError:
            cleaned_up.append("server")
            raise

    monkeypatch.setattr("airsmith.serving.local.endpoint.deploy", deploy)
    operator = LocalDeployOperator(task_id="deploy", run_uri=run.uri)
    on_sigterm(operator.on_kill)
    with pytest.raises(StageInterruptedError):
        operator.execute({})
    assert cleaned_up == ["server"]
    operator.on_kill()


def test_a_failed_deployment_has_the_class_of_its_kind(run: Run, use_stages_that, monkeypatch: pytest.MonkeyPatch):
    use_stages_that("pass")

    def deploy(*_: Any) -> None:
        raise AirsmithError(ErrorKind.ACCESS_DENIED, "no")

    monkeypatch.setattr("airsmith.serving.local.endpoint.deploy", deploy)
    with pytest.raises(AccessDeniedError):
        LocalDeployOperator(task_id="deploy", run_uri=run.uri).execute({})


def send_sigterm_once(pid_file: Path) -> None:
    """Send SIGTERM to this process as soon as the stage has written its pid."""
    while not pid_file.exists() or not pid_file.read_text():
        threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("http://airflow:8080", "/airsmith/endpoints/triage"),
        ("https://x/airflow/", "/airflow/airsmith/endpoints/triage"),
    ],
)
def test_the_link_of_a_deploy_task_is_the_endpoint_page(monkeypatch: pytest.MonkeyPatch, base_url: str, path: str):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    operator = LocalDeployOperator(task_id="deploy", run_uri="memory://x/y")
    (link,) = operator.operator_extra_links
    assert link.get_link(operator, ti_key=None) == ""
    operator.endpoint = "triage"
    assert link.get_link(operator, ti_key=None) == path
