"""Jobs on an API server whose webhook does not yet see a runtime that was just created."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from threading import Thread

import pytest
from kubernetes.client import ApiClient, Configuration

from airsmith.cluster.jobs import JOB_KINDS
from airsmith.cluster.jobs import client as module
from airsmith.cluster.jobs.client import JobClient
from airsmith.cluster.stage_pod import stage_pod
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.http_servers import QuietHandler
from tests.support.pods import DIGEST, RUN, SETTINGS, cluster_spec

NODES = 3
SPEC = cluster_spec(backend={"nodes": NODES, "job": "trainjob"}, training={"total_train_batch_size": 12})
# The message of Kubeflow Trainer 2.0.
DENIED = (
    'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.runtimeRef: Invalid value: '
    "TrainingRuntime.trainer.kubeflow.org not found: specified trainingRuntime must be created before the TrainJob"
)


class ApiServer(ThreadingHTTPServer):
    """Accepts every object, but refuses the first attempts to create a TrainJob."""

    refusals = 0
    message = DENIED

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created_kinds: list[str] = []

    def client(self) -> ApiClient:
        configuration = Configuration(host=f"http://127.0.0.1:{self.server_port}")
        return ApiClient(configuration)


class Handler(QuietHandler):
    server: ApiServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.created_kinds.append(json.loads(content)["kind"])
        refused = (
            self.server.created_kinds[-1] == "TrainJob"
            and self.server.created_kinds.count("TrainJob") <= self.server.refusals
        )
        refusal = json.dumps({"kind": "Status", "message": self.server.message, "code": 403}).encode()
        self.send_response(403 if refused else 201)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(refusal if refused else content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    with ApiServer() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def create(server: ApiServer) -> object:
    jobs = JobClient(server.client(), JOB_KINDS["trainjob"], "namespace")
    return jobs.create("train", "a-job", stage_pod("train", RUN, SPEC, DIGEST, SETTINGS), NODES)


def test_a_job_is_retried_until_the_webhook_finds_its_runtime(server: ApiServer) -> None:
    server.refusals = 3
    assert create(server) is not None
    assert server.created_kinds == ["TrainingRuntime", *["TrainJob"] * 4]


def test_a_runtime_that_is_never_found_is_an_error(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refusals = 1_000_000
    monkeypatch.setattr(module, "COMPANION_SECONDS", 0.05)
    with pytest.raises(AirsmithError, match="specified trainingRuntime must be created before"):
        create(server)


def test_another_refusal_is_not_retried(server: ApiServer) -> None:
    server.refusals, server.message = 1, "trainjobs is forbidden"
    with pytest.raises(AirsmithError) as refused:
        create(server)
    assert refused.value.kind is ErrorKind.ACCESS_DENIED
    assert server.created_kinds == ["TrainingRuntime", "TrainJob"]
