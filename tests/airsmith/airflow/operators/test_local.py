"""The local operator under Airflow's hands: a kill, a time limit, a failure, an output that is there already."""

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
from airsmith.artifacts.publish import write_artifact
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.stage_errors import AccessDeniedError, BadDataError, StageInterruptedError, StageKilledError
from airsmith.settings import Settings

StagesThat = Callable[..., Settings]
STAGE = "mirror_dataset"

TELLS_ITS_PID_AND_WAITS = """
    import os, pathlib, signal, sys
    def end(*_):
        print('{"error": "interrupted", "message": "Stopped after a checkpoint.", "hint": "Run it again."}', flush=True)
        sys.exit(1)
    signal.signal(signal.SIGTERM, end)
    pathlib.Path(PID_FILE).write_text(str(os.getpid()))
    print("ready", flush=True)
    while True:
        signal.pause()
    """


@pytest.fixture
def in_the_environment(stages_that: StagesThat, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes stages that do what the code says those of the worker's environment."""

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
    """Does on SIGTERM what Airflow's task runner does: calls the operator's `on_kill`, and goes on."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda on_kill: signal.signal(signal.SIGTERM, lambda *_: on_kill())
    signal.signal(signal.SIGTERM, before)


def test_a_killed_task_ends_its_stage_in_order(
    operator: LocalStageOperator, in_the_environment, on_sigterm, tmp_path: Path
):
    pid_file = tmp_path / "pid"
    in_the_environment(TELLS_ITS_PID_AND_WAITS.replace("PID_FILE", repr(str(pid_file))))
    on_sigterm(operator.on_kill)
    killer = threading.Thread(target=send_sigterm_once, args=(pid_file,))
    killer.start()
    with pytest.raises(StageInterruptedError, match="Stopped after a checkpoint"):
        operator.execute({})
    killer.join()
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_a_time_limit_ends_the_stage(operator: LocalStageOperator, in_the_environment, tmp_path: Path):
    pid_file = tmp_path / "pid"
    in_the_environment(TELLS_ITS_PID_AND_WAITS.replace("PID_FILE", repr(str(pid_file))))
    with pytest.raises(AirflowTaskTimeout), timeout(1):
        operator.execute({})
    operator.on_kill()
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_a_failure_has_the_class_of_its_kind_and_says_what_to_do(
    operator: LocalStageOperator, in_the_environment, capsys: pytest.CaptureFixture[str]
):
    error = AirsmithError(ErrorKind.BAD_DATA, "The split is empty.", "Name another split.")
    in_the_environment(f"import sys; print({error.to_json_line()!r}, file=sys.stderr); sys.exit(1)")
    with pytest.raises(BadDataError, match="The split is empty") as failure:
        operator.execute({})
    assert failure.value.hint == "Name another split."
    log = capsys.readouterr().out
    assert "[error    ] The split is empty." in log
    assert "[error    ] What to do: Name another split." in log


def test_a_stage_killed_outright_is_told_apart(operator: LocalStageOperator, in_the_environment):
    in_the_environment("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(StageKilledError):
        operator.execute({})


def test_an_output_that_is_there_starts_no_process(run: Run, operator: LocalStageOperator, in_the_environment):
    in_the_environment("raise SystemExit('nobody should have started this')")
    wanted = look_up_output(run, run.read_spec(), STAGE)
    with write_artifact(
        run.store, wanted.location, type=wanted.type, digest=wanted.digest, inputs={}, versions={}
    ) as artifact:
        artifact.add_bytes("train.jsonl", b"{}\n")
        artifact.publish()
    operator.execute({})
    pointer = run.pointer(STAGE)
    assert pointer is not None
    assert (pointer.cached, pointer.location) == (True, wanted.location)
    assert run.statuses()[STAGE].state == "cached"


def test_an_input_that_is_missing_names_its_stage(run: Run, in_the_environment):
    in_the_environment("pass")
    with pytest.raises(AirsmithError, match="Stage tokenize needs the output of mirror_model"):
        LocalStageOperator(task_id="tokenize", stage="tokenize", run_uri=run.uri).execute({})


def test_a_connections_password_is_the_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW_CONN_HUB", '{"conn_type": "http", "password": "hf_secret"}')
    assert connection_password("hub") == "hf_secret"
    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", '{"conn_type": "http"}')
    for connection in ("empty", "absent"):
        with pytest.raises(AirsmithError, match=f"'{connection}', which has none") as failure:
            connection_password(connection)
        assert failure.value.kind is ErrorKind.ACCESS_DENIED


def test_a_deployment_is_given_up_when_its_task_is_killed(
    run: Run, in_the_environment, on_sigterm, monkeypatch: pytest.MonkeyPatch
):
    in_the_environment("pass")
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


def test_a_deployment_out_of_reach_has_its_class(run: Run, in_the_environment, monkeypatch: pytest.MonkeyPatch):
    in_the_environment("pass")

    def deploy(*_: Any) -> None:
        raise AirsmithError(ErrorKind.ACCESS_DENIED, "no")

    monkeypatch.setattr("airsmith.serving.local.endpoint.deploy", deploy)
    with pytest.raises(AccessDeniedError):
        LocalDeployOperator(task_id="deploy", run_uri=run.uri).execute({})


def send_sigterm_once(sign: Path) -> None:
    """Send this process SIGTERM as soon as the stage has written its sign."""
    while not sign.exists() or not sign.read_text():
        threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("http://airflow:8080", "/airsmith/endpoints/triage"),
        ("https://x/airflow/", "/airflow/airsmith/endpoints/triage"),
    ],
)
def test_the_button_of_a_deployment_leads_to_the_endpoints_page(
    monkeypatch: pytest.MonkeyPatch, base_url: str, path: str
):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    operator = LocalDeployOperator(task_id="deploy", run_uri="memory://x/y")
    (link,) = operator.operator_extra_links
    assert link.get_link(operator, ti_key=None) == ""
    operator.endpoint = "triage"
    assert link.get_link(operator, ti_key=None) == path
