"""Jobs and an API server whose webhook does not know yet what was made a moment ago."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from kubernetes.client import ApiClient, Configuration
from test_job_engines import NODES, RUN
from test_pods import DIGEST, SETTINGS, make_spec

from airsmith.cluster.jobs import ENGINES
from airsmith.cluster.jobs import client as module
from airsmith.cluster.jobs.client import Jobs
from airsmith.cluster.stage_pod import stage_pod
from airsmith.errors import AirsmithError, ErrorKind

SPEC = make_spec(backend={"nodes": NODES, "job": "trainjob"}, training={"total_train_batch_size": 12})
# In the words of Kubeflow Trainer 2.0.
DENIED = (
    'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.runtimeRef: Invalid value: '
    "TrainingRuntime.trainer.kubeflow.org not found: specified trainingRuntime must be created before the TrainJob"
)


class ApiServer(ThreadingHTTPServer):
    """Takes whatever it is given, but a TrainJob only at the last of some tries."""

    refusals = 0
    denied = DENIED

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []

    def client(self) -> ApiClient:
        configuration = Configuration(host=f"http://127.0.0.1:{self.server_port}")
        return ApiClient(configuration)


class Answer(BaseHTTPRequestHandler):
    server: ApiServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(json.loads(content)["kind"])
        refused = self.server.asked[-1] == "TrainJob" and self.server.asked.count("TrainJob") <= self.server.refusals
        answer = json.dumps({"kind": "Status", "message": self.server.denied, "code": 403}).encode()
        self.send_response(403 if refused else 201)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer if refused else content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    with ApiServer() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def create(server: ApiServer) -> object:
    jobs = Jobs(server.client(), ENGINES["trainjob"], "namespace")
    return jobs.create("train", "a-job", stage_pod("train", RUN, SPEC, DIGEST, SETTINGS), NODES)


def test_a_job_waits_until_the_webhook_knows_its_runtime(server: ApiServer) -> None:
    server.refusals = 3
    assert create(server) is not None
    assert server.asked == ["TrainingRuntime", *["TrainJob"] * 4]


def test_a_runtime_that_stays_unknown_is_told(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refusals = 1_000_000
    monkeypatch.setattr(module, "COMPANION_SECONDS", 0.05)
    with pytest.raises(AirsmithError, match="specified trainingRuntime must be created before"):
        create(server)


def test_another_refusal_is_told_at_once(server: ApiServer) -> None:
    server.refusals, server.denied = 1, "trainjobs is forbidden"
    with pytest.raises(AirsmithError) as refused:
        create(server)
    assert refused.value.kind is ErrorKind.ACCESS_DENIED
    assert server.asked == ["TrainingRuntime", "TrainJob"]
