"""Endpoints on this machine have one healthy server, which only another healthy server replaces."""

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

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.detached import is_alive
from airsmith.registry import Endpoint, read_endpoint
from airsmith.serving.local import endpoint as local
from airsmith.serving.local.endpoint import deploy, stop_all, stop_endpoint
from airsmith.serving.local.server import is_healthy
from tests.support.local_endpoints import LocalHost


def endpoint_of(local_host: LocalHost, name: str = "tiny") -> Endpoint:
    endpoint = read_endpoint(local_host.store, name)
    assert endpoint is not None
    assert endpoint.current.process is not None
    return endpoint


def folder_of(endpoint: Endpoint) -> Path:
    """The working directory of its server."""
    assert endpoint.current.process is not None
    return Path(endpoint.current.process.log).parent


def started_with(endpoint: Endpoint) -> dict[str, dict[str, str]]:
    return json.loads((folder_of(endpoint) / "started.json").read_text())


def processes_in(folder: Path) -> list[int]:
    """Processes whose working directory is this folder: the server and its helper."""
    found = psutil.process_iter(["pid", "cwd", "status"])
    return [p.info["pid"] for p in found if p.info["cwd"] == str(folder) and p.info["status"] != psutil.STATUS_ZOMBIE]


def server_processes(local_host: LocalHost) -> list[int]:
    """The processes of all servers, healthy or not."""
    return [pid for folder in (local_host.folder / "state/endpoints").glob("*") for pid in processes_in(folder)]


def test_the_first_deployment_starts_a_server_and_records_it(local_host: LocalHost):
    run = local_host.new_run()
    pointer = deploy(run, local_host.settings())
    endpoint = endpoint_of(local_host)
    assert is_healthy(endpoint.current)
    assert (endpoint.current.engine, endpoint.current.version, endpoint.current.model_uri) == (
        "transformers",
        1,
        "artifacts/model/m1",
    )
    assert endpoint.current.address.startswith("http://127.0.0.1:")
    assert (pointer.cached, pointer.digest, pointer.location) == (False, endpoint.current.id, "endpoints/tiny.json")
    assert pointer.properties == {"endpoint": endpoint.name, "address": endpoint.current.address, "model_name": "tiny"}
    assert run.statuses()["deploy"].state == "done"
    assert (folder_of(endpoint) / "tiny/name.txt").read_text() == "m1"
    assert "loading" in Path(endpoint.current.process.log).read_text()


def test_a_healthy_server_of_the_same_model_is_reused(local_host: LocalHost):
    first = deploy(local_host.new_run(), local_host.settings())
    before = endpoint_of(local_host)
    again = deploy(local_host.new_run(), local_host.settings())
    assert again.cached
    assert again.digest == first.digest
    assert endpoint_of(local_host) == before
    assert is_alive(before.current.process)


def test_a_new_model_replaces_the_old_one_when_it_is_healthy(local_host: LocalHost, monkeypatch: pytest.MonkeyPatch):
    deploy(local_host.new_run("m1"), local_host.settings())
    before = endpoint_of(local_host)
    swap = local.record_current

    def swap_seen(store, name, revision):
        assert is_healthy(before.current)
        assert is_healthy(revision)
        return swap(store, name, revision)

    monkeypatch.setattr(local, "record_current", swap_seen)
    deploy(local_host.new_run("m2"), local_host.settings())
    after = endpoint_of(local_host)
    assert (after.current.model_uri, after.current.version, is_healthy(after.current)) == (
        "artifacts/model/m2",
        2,
        True,
    )
    assert after.previous is not None
    assert after.previous.id == before.current.id
    assert not is_alive(before.current.process)
    assert not processes_in(folder_of(before))


@pytest.mark.parametrize("failure", ["dead", "sick"])
def test_a_dead_or_unhealthy_server_is_replaced(local_host: LocalHost, failure: str):
    deploy(local_host.new_run(), local_host.settings())
    before = endpoint_of(local_host)
    if failure == "dead":
        os.killpg(before.current.process.pid, signal.SIGKILL)
        psutil.Process(before.current.process.pid).wait()
    else:
        (folder_of(before) / "sick").touch()
    pointer = deploy(local_host.new_run(), local_host.settings())
    assert not pointer.cached
    assert is_healthy(endpoint_of(local_host).current)
    assert not processes_in(folder_of(before))


def test_another_engine_replaces_the_server(local_host: LocalHost):
    deploy(local_host.new_run(), local_host.settings())
    local_host.install("vllm")
    assert not deploy(local_host.new_run(), local_host.settings()).cached
    endpoint = endpoint_of(local_host)
    assert endpoint.current.engine == "vllm"
    assert started_with(endpoint)["arguments"][:2] == ["-m", "vllm.entrypoints.openai.api_server"]


def test_a_server_that_exits_at_startup_is_reported_with_its_last_lines(
    local_host: LocalHost, caplog: pytest.LogCaptureFixture
):
    deploy(local_host.new_run("m1"), local_host.settings())
    before = endpoint_of(local_host)
    local_host.install_server(
        "helper.kill(); print('line', *range(40), sep='\\nline '); sys.exit('No such dtype: float13')"
    )
    run = local_host.new_run("m2")
    with pytest.raises(AirsmithError, match="The transformers server for tiny exited during startup") as failed:
        deploy(run, local_host.settings())
    assert failed.value.kind is ErrorKind.INTERNAL
    log = Path(failed.value.hint.removeprefix("See ").rstrip("."))
    assert log.read_text().endswith("No such dtype: float13\n")
    assert "No such dtype: float13" in caplog.text
    assert "line 39" in caplog.text
    assert "line 20\n" not in caplog.text
    assert run.pointer("deploy") is None
    assert run.statuses()["deploy"].error == failed.value.message
    assert endpoint_of(local_host) == before
    assert is_healthy(before.current)


def test_a_server_that_never_becomes_healthy_is_stopped(local_host: LocalHost, set_timeouts: Callable[..., None]):
    set_timeouts(start_seconds=0.3, stop_seconds=5)
    local_host.install_server("while True: signal.pause()")
    with pytest.raises(AirsmithError, match="was not healthy after 0 s"):
        deploy(local_host.new_run(), local_host.settings())
    assert read_endpoint(local_host.store, "tiny") is None
    assert not server_processes(local_host)


def test_a_deployment_that_is_interrupted_leaves_no_server(local_host: LocalHost, monkeypatch: pytest.MonkeyPatch):
    def interrupted(store, name, revision):
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "record_current", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy(local_host.new_run(), local_host.settings())
    assert not server_processes(local_host)


def test_a_fixed_port_is_passed_from_server_to_server(local_host: LocalHost):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = local_host.settings(serve_port=port)
    for model in ("m1", "m2", "m3"):
        deploy(local_host.new_run(model), settings)
        endpoint = endpoint_of(local_host)
        assert endpoint.current.address == f"http://127.0.0.1:{port}"
        assert httpx.get(f"{endpoint.current.address}/health").text == str(endpoint.current.process.pid)
    assert len(server_processes(local_host)) == 2


def test_a_port_in_use_is_reported(local_host: LocalHost):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        run = local_host.new_run()
        with pytest.raises(
            AirsmithError, match=rf"The server cannot listen on 127\.0\.0\.1:{port}: Address already"
        ) as taken:
            deploy(run, local_host.settings(serve_port=port))
    assert (taken.value.kind, "local.serve_port" in taken.value.hint) == (ErrorKind.BAD_RECIPE, True)
    assert run.pointer("deploy") is None
    assert not server_processes(local_host)


@pytest.mark.parametrize(
    "before",
    ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))"],
    ids=["graceful", "ignores SIGTERM", "leaves its helper"],
)
def test_stopping_kills_the_whole_process_group(local_host: LocalHost, set_timeouts: Callable[..., None], before: str):
    set_timeouts(stop_seconds=0.5)
    local_host.install_server(before)
    deploy(local_host.new_run(), local_host.settings())
    endpoint = endpoint_of(local_host)
    assert len(processes_in(folder_of(endpoint))) == 2
    assert stop_endpoint(local_host.store, "tiny")
    assert not processes_in(folder_of(endpoint))
    assert not stop_endpoint(local_host.store, "tiny")


def test_stop_all_stops_running_servers_and_returns_their_names(local_host: LocalHost):
    for name in ("a", "b", "c"):
        deploy(local_host.new_run(name=name), local_host.settings())
    stop_endpoint(local_host.store, "b")
    assert stop_all(local_host.settings()) == ["a", "c"]
    assert stop_all(local_host.settings()) == []
    assert not server_processes(local_host)


def test_a_process_with_a_recycled_pid_is_not_killed(local_host: LocalHost):
    """After a reboot, another process can have the recorded pid."""
    deploy(local_host.new_run(), local_host.settings())
    endpoint = endpoint_of(local_host)
    recycled = endpoint.current.process.model_copy(update={"started_at": endpoint.current.process.started_at - 100})
    path = local_host.folder / "store/endpoints/tiny.json"
    record = path.read_text()
    path.write_text(endpoint.with_current(process=recycled).model_dump_json())
    assert not stop_endpoint(local_host.store, "tiny")
    assert is_alive(endpoint.current.process)
    path.write_text(record)


def test_the_server_has_no_variables_of_airflow_and_no_token(local_host: LocalHost, monkeypatch: pytest.MonkeyPatch):
    for name in ("AIRFLOW__CORE__FERNET_KEY", "_AIRFLOW_PROCESS_CONTEXT", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("KEPT", "yes")
    deploy(local_host.new_run(), local_host.settings())
    environment = started_with(endpoint_of(local_host))["environment"]
    assert "secret" not in environment.values()
    assert (environment["KEPT"], environment["HF_HUB_OFFLINE"], environment["OMP_WAIT_POLICY"]) == (
        "yes",
        "1",
        "PASSIVE",
    )


def test_a_model_is_copied_once(local_host: LocalHost):
    deploy(local_host.new_run(name="a"), local_host.settings())
    copy = local_host.folder / "state/models/m1/name.txt"
    before = copy.stat()
    deploy(local_host.new_run(name="b"), local_host.settings())
    assert copy.stat() == before
    assert [path.name for path in (local_host.folder / "state/models").iterdir()] == ["m1"]


def test_a_damaged_model_is_not_served(local_host: LocalHost):
    run = local_host.new_run()
    (stored,) = (local_host.folder / "store/artifacts/model/m1").glob("attempt=*/name.txt")
    stored.chmod(0o644)
    stored.write_text("mX")
    with pytest.raises(AirsmithError, match=r"name\.txt of .* differs from the published content") as refused:
        deploy(run, local_host.settings())
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert not server_processes(local_host)
    assert not (local_host.folder / "state/models/m1").exists()


def test_a_run_without_a_merged_model_is_refused(local_host: LocalHost):
    run = local_host.new_run()
    local_host.store.delete(f"{run.path}/stages/merge.json")
    with pytest.raises(AirsmithError, match="needs the output of merge") as refused:
        deploy(run, local_host.settings())
    assert refused.value.kind is ErrorKind.NOT_FOUND
