"""A deployment to this machine: one healthy server per endpoint, which only another healthy one takes the place of."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from machine import Machine

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.detached import is_alive
from airsmith.registry import Endpoint, read_endpoint
from airsmith.serving.local.endpoint import deploy, is_healthy, stop_all, stop_endpoint
from airsmith.serving.local.endpoint import endpoint as local


def endpoint_of(machine: Machine, name: str = "tiny") -> Endpoint:
    endpoint = read_endpoint(machine.store, name)
    assert endpoint is not None
    assert endpoint.process is not None
    return endpoint


def folder_of(endpoint: Endpoint) -> Path:
    """Where its server runs."""
    assert endpoint.process is not None
    return Path(endpoint.process.log).parent


def started(endpoint: Endpoint) -> dict[str, dict[str, str]]:
    return json.loads((folder_of(endpoint) / "started.json").read_text())


def group_of(folder: Path) -> list[int]:
    """Processes whose working directory is this folder: the server and its helper."""
    found = psutil.process_iter(["pid", "cwd", "status"])
    return [p.info["pid"] for p in found if p.info["cwd"] == str(folder) and p.info["status"] != psutil.STATUS_ZOMBIE]


def servers(machine: Machine) -> list[int]:
    """Processes of all servers, healthy or not."""
    return [pid for folder in (machine.folder / "state/endpoints").glob("*") for pid in group_of(folder)]


def test_the_first_deployment_starts_a_server_and_records_it(machine: Machine):
    run = machine.run()
    pointer = deploy(run, machine.settings())
    endpoint = endpoint_of(machine)
    assert is_healthy(endpoint)
    assert (endpoint.engine, endpoint.version, endpoint.model_uri) == ("transformers", 1, "artifacts/model/m1")
    assert endpoint.address.startswith("http://127.0.0.1:")
    assert (pointer.cached, pointer.digest, pointer.location) == (False, endpoint.deployment, "endpoints/tiny.json")
    assert pointer.properties == {"endpoint": endpoint.name, "address": endpoint.address, "model_name": "tiny"}
    assert run.statuses()["deploy"].state == "done"
    assert (folder_of(endpoint) / "tiny/name.txt").read_text() == "m1"
    assert "loading" in Path(endpoint.process.log).read_text()


def test_a_server_of_the_same_model_goes_on(machine: Machine):
    first = deploy(machine.run(), machine.settings())
    before = endpoint_of(machine)
    again = deploy(machine.run(), machine.settings())
    assert again.cached
    assert again.digest == first.digest
    assert endpoint_of(machine) == before
    assert is_alive(before.process)


def test_another_model_takes_over_once_it_is_healthy(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    deploy(machine.run("m1"), machine.settings())
    before = endpoint_of(machine)
    swap = local.swap_endpoint

    def swap_seen(store, name, deployment):
        assert is_healthy(before)
        assert is_healthy(deployment)
        return swap(store, name, deployment)

    monkeypatch.setattr(local, "swap_endpoint", swap_seen)
    deploy(machine.run("m2"), machine.settings())
    after = endpoint_of(machine)
    assert (after.model_uri, after.version, is_healthy(after)) == ("artifacts/model/m2", 2, True)
    assert after.previous is not None
    assert after.previous.deployment == before.deployment
    assert not is_alive(before.process)
    assert not group_of(folder_of(before))


@pytest.mark.parametrize("how", ["dead", "sick"])
def test_a_server_that_does_not_answer_is_replaced(machine: Machine, how: str):
    deploy(machine.run(), machine.settings())
    before = endpoint_of(machine)
    if how == "dead":
        os.killpg(before.process.pid, signal.SIGKILL)
        psutil.Process(before.process.pid).wait()
    else:
        (folder_of(before) / "sick").touch()
    pointer = deploy(machine.run(), machine.settings())
    assert not pointer.cached
    assert is_healthy(endpoint_of(machine))
    assert not group_of(folder_of(before))


def test_another_engine_takes_over_as_well(machine: Machine):
    deploy(machine.run(), machine.settings())
    machine.install("vllm")
    assert not deploy(machine.run(), machine.settings()).cached
    endpoint = endpoint_of(machine)
    assert endpoint.engine == "vllm"
    assert started(endpoint)["arguments"][:2] == ["-m", "vllm.entrypoints.openai.api_server"]


def test_a_server_that_dies_as_it_starts_is_told_with_its_last_lines(
    machine: Machine, caplog: pytest.LogCaptureFixture
):
    deploy(machine.run("m1"), machine.settings())
    before = endpoint_of(machine)
    machine.server_that("helper.kill(); print('line', *range(40), sep='\\nline '); sys.exit('No such dtype: float13')")
    run = machine.run("m2")
    with pytest.raises(AirsmithError, match="The transformers server for tiny ended while it started") as failed:
        deploy(run, machine.settings())
    assert failed.value.kind is ErrorKind.INTERNAL
    log = Path(failed.value.hint.removeprefix("See ").rstrip("."))
    assert log.read_text().endswith("No such dtype: float13\n")
    assert "No such dtype: float13" in caplog.text
    assert "line 39" in caplog.text
    assert "line 20\n" not in caplog.text
    assert run.pointer("deploy") is None
    assert run.statuses()["deploy"].error == failed.value.message
    assert endpoint_of(machine) == before
    assert is_healthy(before)


def test_a_server_that_never_gets_healthy_is_ended(machine: Machine, short_waits: Callable[..., None]):
    short_waits(start_seconds=0.3, stop_seconds=5)
    machine.server_that("while True: signal.pause()")
    with pytest.raises(AirsmithError, match="was not healthy after 0 s"):
        deploy(machine.run(), machine.settings())
    assert read_endpoint(machine.store, "tiny") is None
    assert not servers(machine)


def test_a_deployment_that_is_interrupted_leaves_no_server(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    def interrupted(store, name, deployment):
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "swap_endpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy(machine.run(), machine.settings())
    assert not servers(machine)


def test_a_fixed_port_is_handed_from_one_server_to_the_next(machine: Machine):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = machine.settings(serve_port=port)
    for model in ("m1", "m2", "m3"):
        deploy(machine.run(model), settings)
        endpoint = endpoint_of(machine)
        assert endpoint.address == f"http://127.0.0.1:{port}"
        assert httpx.get(f"{endpoint.address}/health").text == str(endpoint.process.pid)
    assert len(servers(machine)) == 2


def test_a_port_that_another_program_has_is_named(machine: Machine):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        run = machine.run()
        with pytest.raises(
            AirsmithError, match=rf"Nothing can be served at 127\.0\.0\.1:{port}: Address already"
        ) as taken:
            deploy(run, machine.settings(serve_port=port))
    assert (taken.value.kind, "local.serve_port" in taken.value.hint) == (ErrorKind.BAD_RECIPE, True)
    assert run.pointer("deploy") is None
    assert not servers(machine)


@pytest.mark.parametrize(
    "before",
    ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))"],
    ids=["in order", "deaf", "helper left behind"],
)
def test_stopping_ends_the_whole_group(machine: Machine, short_waits: Callable[..., None], before: str):
    short_waits(stop_seconds=0.5)
    machine.server_that(before)
    deploy(machine.run(), machine.settings())
    endpoint = endpoint_of(machine)
    assert len(group_of(folder_of(endpoint))) == 2
    assert stop_endpoint(machine.store, "tiny")
    assert not group_of(folder_of(endpoint))
    assert not stop_endpoint(machine.store, "tiny")


def test_all_that_runs_is_stopped_and_named(machine: Machine):
    for name in ("a", "b", "c"):
        deploy(machine.run(name=name), machine.settings())
    stop_endpoint(machine.store, "b")
    assert stop_all(machine.settings()) == ["a", "c"]
    assert stop_all(machine.settings()) == []
    assert not servers(machine)


def test_a_recycled_pid_is_left_alone(machine: Machine):
    """After a restart of the machine, the recorded pid may be anybody's."""
    deploy(machine.run(), machine.settings())
    endpoint = endpoint_of(machine)
    stranger = endpoint.process.model_copy(update={"started_at": endpoint.process.started_at - 100})
    path = machine.folder / "store/endpoints/tiny.json"
    record = path.read_text()
    path.write_text(endpoint.model_copy(update={"process": stranger}).model_dump_json())
    assert not stop_endpoint(machine.store, "tiny")
    assert is_alive(endpoint.process)
    path.write_text(record)


def test_the_server_gets_nothing_of_airflow_and_no_token(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    for name in ("AIRFLOW__CORE__FERNET_KEY", "_AIRFLOW_PROCESS_CONTEXT", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("KEPT", "yes")
    deploy(machine.run(), machine.settings())
    environment = started(endpoint_of(machine))["environment"]
    assert "secret" not in environment.values()
    assert (environment["KEPT"], environment["HF_HUB_OFFLINE"], environment["OMP_WAIT_POLICY"]) == (
        "yes",
        "1",
        "PASSIVE",
    )


def test_a_model_is_copied_once(machine: Machine):
    deploy(machine.run(name="a"), machine.settings())
    copy = machine.folder / "state/models/m1/name.txt"
    before = copy.stat()
    deploy(machine.run(name="b"), machine.settings())
    assert copy.stat() == before
    assert [path.name for path in (machine.folder / "state/models").iterdir()] == ["m1"]


def test_a_damaged_model_is_not_served(machine: Machine):
    run = machine.run()
    (stored,) = (machine.folder / "store/artifacts/model/m1").glob("attempt=*/name.txt")
    stored.chmod(0o644)
    stored.write_text("mX")
    with pytest.raises(AirsmithError, match=r"name\.txt of .* differs from what was published") as refused:
        deploy(run, machine.settings())
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert not servers(machine)
    assert not (machine.folder / "state/models/m1").exists()


def test_a_run_without_a_merged_model_is_refused(machine: Machine):
    run = machine.run()
    machine.store.delete(f"{run.path}/stages/merge.json")
    with pytest.raises(AirsmithError, match="needs the output of merge") as refused:
        deploy(run, machine.settings())
    assert refused.value.kind is ErrorKind.NOT_FOUND
