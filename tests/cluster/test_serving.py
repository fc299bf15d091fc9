"""One vLLM server in the cluster: what it serves, access to it, and the errors when it cannot start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import pytest

from airsmith.artifacts.read import open_artifact
from airsmith.cluster.access import cluster_client, deployments_of, pods_of, set_replicas
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, Revision, read_endpoint, record_current
from airsmith.serving.chat import find_endpoint, stream_answer
from airsmith.serving.cluster.arguments import DRAIN_SECONDS
from airsmith.serving.cluster.endpoint import deploy, stop
from airsmith.serving.cluster.manifests import PORT, service_name
from airsmith.serving.cluster.port_forward import is_reachable, port_forwarded
from airsmith.serving.cluster.served_model import deployment_name
from airsmith.serving.cluster.server_pod import DEREGISTRATION_SECONDS
from airsmith.settings import Image, Settings
from tests.cluster import airflow_identity
from tests.cluster.installation import Cluster
from tests.cluster.trained_models import TrainedModels, trained_models

pytestmark = pytest.mark.images("cpu", "vllm-cpu")

ENDPOINT = "shore"
KEY = "a-key-for-tests"
NEW_TOKENS = 16
ANSWERS = 250
CALIBRATION_TOKENS = 25
TRUNCATED = "\N{REPLACEMENT CHARACTER}"
ADAPTER_MODE: dict[str, Any] = {
    "serve": {"name": ENDPOINT, "mode": "adapter", "engine_args": {"max-model-len": 256}},
    "secrets": {"api_key": {"kubernetes_secret": "endpoint-key/key"}},
}


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig for Airflow's worker."""
    return airflow_identity.kubeconfig(cluster.namespace, tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module")
def models(
    cluster: Cluster, images: Path, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrainedModels]:
    client = kubernetes.config.new_client_from_config(str(kubeconfig))
    with trained_models(tmp_path_factory.mktemp("models"), cluster, images, client) as models:
        yield models


@dataclass(frozen=True)
class Served:
    """An endpoint, the run that deployed it, and a client."""

    run: Run
    endpoint: Endpoint
    http: httpx.Client

    def answer(self, model: str, question: str) -> str:
        """The complete answer to a question."""
        request = {"model": model, "messages": asked(question), "temperature": 0, "max_tokens": NEW_TOKENS}
        response = self.http.post("/v1/chat/completions", json=request).raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"]).rstrip(TRUNCATED)


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@contextmanager
def serving(models: TrainedModels, run: Run) -> Iterator[Served]:
    """A run's endpoint, asked at its Service's address."""
    deploy(run, models.settings, models.client)
    endpoint = find_endpoint(models.store, run.read_spec().recipe.endpoint_name)
    service = models.cluster.core.read_namespaced_service(service_name(endpoint.name), models.cluster.namespace)
    with httpx.Client(
        base_url=f"http://{service.spec.cluster_ip}:{PORT}",
        timeout=60,
        headers={"Authorization": f"Bearer {KEY}"},
        # A Service's address answers on each node a moment after the Service has its pods.
        transport=httpx.HTTPTransport(retries=6),
    ) as http:
        yield Served(run, endpoint, http)
    stop(models.store, endpoint.name, models.client)


@pytest.fixture(scope="module")
def adapters(models: TrainedModels, cluster: Cluster) -> Iterator[Served]:
    """An endpoint with a base and two adapters. One adapter belongs to an earlier recipe."""
    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": "endpoint-key"}, "stringData": {"key": KEY}}
    )
    earlier = models.finished_run("moon", **ADAPTER_MODE)
    base, adapter = (earlier.pointer(stage) for stage in ("mirror_model", "train"))
    assert base is not None
    assert adapter is not None
    before = Revision(
        engine="vllm", address="http://gone", model_name="moon", model_uri=base.location,
        adapters={"moon": adapter.location}, id="before", namespace=cluster.namespace,
    )  # fmt: skip
    record_current(models.store, ENDPOINT, before)
    with serving(models, models.finished_run("tide", **ADAPTER_MODE)) as served:
        yield served


def other_image(models: TrainedModels) -> Settings:
    images = {
        **models.settings.kubernetes.images,
        "vllm-cpu": Image(reference=f"localhost:5000/airsmith/none@sha256:{'0' * 64}"),
    }
    kubernetes_settings = models.settings.kubernetes.model_copy(update={"images": images})
    return models.settings.model_copy(update={"kubernetes": kubernetes_settings})


def damage(models: TrainedModels, run: Run) -> None:
    """Change a file of the merged model in the store and keep its size."""
    merged = run.pointer("merge")
    assert merged is not None
    artifact = open_artifact(models.store, merged.location)
    assert artifact is not None
    content = artifact.read("tokenizer_config.json")
    models.store.delete(artifact.path("tokenizer_config.json"))
    models.store.create(artifact.path("tokenizer_config.json"), content.replace(b"}", b" ", 1))


def test_a_missing_image_is_reported_with_the_kubelets_message(models: TrainedModels):
    error = deployment_error(models, models.finished_run("tide"), other_image(models))
    assert error.kind is ErrorKind.IMAGE_PULL_FAILED
    assert "airsmith/none" in error.message


def test_a_model_damaged_in_the_store_is_not_served(models: TrainedModels, caplog: pytest.LogCaptureFixture):
    run = models.finished_run("tide", merged="damaged")
    damage(models, run)
    error = deployment_error(models, run)
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "tokenizer_config.json" in error.message
    assert "Last log lines of container fetch in pod tide-" in caplog.text


@pytest.mark.long
def test_a_missing_api_key_secret_is_named(models: TrainedModels):
    error = deployment_error(
        models, models.finished_run("tide", secrets={"api_key": {"kubernetes_secret": "nowhere/key"}})
    )
    assert error.kind is ErrorKind.ACCESS_DENIED
    assert '"nowhere" not found' in error.message


def test_an_unknown_vllm_argument_is_reported_with_the_log(models: TrainedModels, caplog: pytest.LogCaptureFixture):
    error = deployment_error(models, models.finished_run("tide", serve={"engine_args": {"max-model-length": 256}}))
    assert error.kind is ErrorKind.BAD_RECIPE
    assert "unrecognized arguments: --max-model-length" in error.message
    assert "serve.engine_args" in error.hint
    assert "unrecognized arguments: --max-model-length" in caplog.text


def deployment_error(models: TrainedModels, run: Run, settings: Settings | None = None) -> AirsmithError:
    """The error of a failed deployment, which leaves nothing behind."""
    with pytest.raises(AirsmithError) as error:
        deploy(run, settings or models.settings, models.client)
    assert deployments_of("tide", models.cluster.namespace, models.client) == []
    assert read_endpoint(models.store, "tide") is None
    return error.value


def test_base_and_adapters_give_their_own_answers(adapters: Served, models: TrainedModels):
    expected = models.expected_answers()
    for name, model in {"tide": "tide", "moon": "moon", "base": f"{ENDPOINT}-base"}.items():
        assert {question: adapters.answer(model, question) for question in expected[name]} == expected[name]
    listed = adapters.http.get("/v1/models").json()["data"]
    assert {model["id"]: model["parent"] for model in listed} == {
        f"{ENDPOINT}-base": None, "tide": f"{ENDPOINT}-base", "moon": f"{ENDPOINT}-base",
    }  # fmt: skip
    assert adapters.endpoint.current.model_name == "tide"


def test_engine_args_reach_vllm(adapters: Served):
    listed = adapters.http.get("/v1/models").json()["data"]
    assert listed[0]["max_model_len"] == ADAPTER_MODE["serve"]["engine_args"]["max-model-len"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}])
def test_requests_without_the_api_key_are_rejected(adapters: Served, headers: dict[str, str]):
    address = str(adapters.http.base_url)
    assert httpx.get(f"{address}/v1/models", headers=headers).status_code == httpx.codes.UNAUTHORIZED
    for path in ("/health", "/metrics"):
        assert httpx.get(f"{address}{path}", headers=headers).is_success


def test_the_smoke_test_uses_the_api_key(adapters: Served, models: TrainedModels):
    run = adapters.run
    pod = models.smoke_pod(run)
    assert pod.status.phase == "Succeeded", pod.status.container_statuses[0].state.terminated.message
    report = run.pointer("smoke_test")
    assert report is not None
    assert report.metrics["agreement"] == 1
    assert report.metrics["unlike_base"] == len(models.expected_answers()["base"])


def test_chat_works_outside_the_cluster(adapters: Served, models: TrainedModels):
    expected = models.expected_answers()["tide"]
    environment = models.environment()
    question = next(iter(expected))
    chat = [Path(sys.executable).parent / "airsmith", "chat", ENDPOINT, "--max-tokens", str(NEW_TOKENS)]

    def talk(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            chat, input=question, env={**environment, **variables}, capture_output=True, encoding="utf-8", check=False
        )  # fmt: skip

    answered = talk(OPENAI_API_KEY=KEY)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout == f"{expected[question]}\n"
    error = talk()
    assert error.returncode != 0
    assert f"endpoint-key/key of namespace {adapters.endpoint.current.namespace}" in error.stderr


def test_answers_are_streamed_through_the_port_forward(
    adapters: Served, models: TrainedModels, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    question, answer = next(iter(models.expected_answers()["tide"].items()))
    assert not is_reachable(adapters.endpoint)
    with port_forwarded(adapters.endpoint, cluster_client()) as near:
        first, second = (list(stream_answer(near, asked(question), NEW_TOKENS)) for _ in range(2))
        with ThreadPoolExecutor(4) as pool:
            together = pool.map(lambda _: "".join(stream_answer(near, asked(question), NEW_TOKENS)), range(4))
            assert set(together) == {answer}
    assert first == second
    assert "".join(first) == answer
    assert len(first) > 1


def test_a_missing_port_forward_permission_is_reported(adapters: Served, models: TrainedModels):
    with (
        pytest.raises(AirsmithError, match="cannot get resource") as error,
        port_forwarded(adapters.endpoint, models.client),
    ):
        pass
    assert error.value.kind is ErrorKind.ACCESS_DENIED
    assert "pods/portforward" in error.value.hint


def test_a_terminating_server_finishes_its_answers(adapters: Served, models: TrainedModels):
    namespace = models.cluster.namespace
    pod = pods_of(adapters.endpoint.current.id, namespace, models.client)[0].metadata.name
    started_at = time.monotonic()
    assert sum(completed_by(line) for line in concurrent_answers(adapters, CALIBRATION_TOKENS)) == ANSWERS
    # Longer than the deregistration delay and shorter than the time to drain.
    target_seconds = DEREGISTRATION_SECONDS + DRAIN_SECONDS / 3
    longest = min(230, int(CALIBRATION_TOKENS * target_seconds / (time.monotonic() - started_at)))
    stopping_after = completed = 0
    for number, line in enumerate(concurrent_answers(adapters, longest)):
        if number == 0:
            set_replicas(deployment_name(ENDPOINT, adapters.endpoint.current.id), namespace, 0, models.client)
        if not stopping_after and number % 1000 == 0:
            log = models.cluster.core.read_namespaced_pod_log(pod, namespace, tail_lines=20)
            stopping_after = number if "shutdown triggered" in log else 0
        completed += completed_by(line)
    assert stopping_after > 0
    assert completed == ANSWERS


def concurrent_answers(adapters: Served, max_tokens: int) -> Iterator[str]:
    """The streamed lines of one batch of concurrent answers of that many tokens."""
    request = {
        "model": "tide", "messages": asked("Is the kettle on?"), "n": ANSWERS, "max_tokens": max_tokens,
        "ignore_eos": True, "stream": True, "temperature": 1,
    }  # fmt: skip
    with adapters.http.stream("POST", "/v1/chat/completions", json=request) as response:
        yield from response.iter_lines()


def completed_by(line: str) -> int:
    """Number of answers that a line completes."""
    return line.count('"finish_reason":"length"')


def test_a_merged_model_is_streamed_from_the_store(models: TrainedModels, adapters: Served):
    run = models.finished_run("tide", serve={"name": "stream", "load": "stream"})
    with serving(models, run) as streamed:
        pod = pods_of(streamed.endpoint.current.id, models.cluster.namespace, models.client)[0]
        assert pod.spec.init_containers is None
        expected = models.expected_answers()["tide"]
        assert {question: streamed.answer("stream", question) for question in expected} == expected
