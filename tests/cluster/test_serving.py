"""One server in the cluster: what it serves, to whom, how people reach it, and what is said when it cannot come up."""

from __future__ import annotations

import os
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
from tests.cluster.deploying import Cluster
from tests.cluster.shop import Shop, open_shop

ENDPOINT = "shore"
KEY = "a-key-for-tests"
NEW_TOKENS = 16
ANSWERS = 250
FEW_TOKENS = 25
CUT_SHORT = "\N{REPLACEMENT CHARACTER}"
ADAPTER_MODE: dict[str, Any] = {
    "serve": {"name": ENDPOINT, "mode": "adapter", "engine_args": {"max-model-len": 256}},
    "secrets": {"api_key": {"kubernetes_secret": "endpoint-key/key"}},
}


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Airflow's worker."""
    return airflow_identity.kubeconfig(cluster.namespace, tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module")
def shop(cluster: Cluster, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    if "AIRSMITH_TEST_SETTINGS" not in os.environ:
        pytest.skip("no images: AIRSMITH_TEST_SETTINGS names no settings file, see `make images`")
    client = kubernetes.config.new_client_from_config(str(kubeconfig))
    images = Path(os.environ["AIRSMITH_TEST_SETTINGS"])
    with open_shop(tmp_path_factory.mktemp("shop"), cluster, images, client) as shop:
        yield shop


@dataclass(frozen=True)
class Served:
    """An endpoint, the run that deployed it, and how this machine asks it."""

    run: Run
    endpoint: Endpoint
    http: httpx.Client

    def answer(self, model: str, question: str) -> str:
        """The whole answer to a question."""
        request = {"model": model, "messages": asked(question), "temperature": 0, "max_tokens": NEW_TOKENS}
        response = self.http.post("/v1/chat/completions", json=request).raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"]).rstrip(CUT_SHORT)


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@contextmanager
def serving(shop: Shop, run: Run) -> Iterator[Served]:
    """A run's endpoint, asked at its Service's address."""
    deploy(run, shop.settings, shop.client)
    endpoint = find_endpoint(shop.store, run.read_spec().recipe.endpoint_name)
    service = shop.cluster.core.read_namespaced_service(service_name(endpoint.name), shop.cluster.namespace)
    with httpx.Client(
        base_url=f"http://{service.spec.cluster_ip}:{PORT}",
        timeout=60,
        headers={"Authorization": f"Bearer {KEY}"},
        # A Service's address answers on each node a moment after the Service has its pods.
        transport=httpx.HTTPTransport(retries=6),
    ) as http:
        yield Served(run, endpoint, http)
    stop(shop.store, endpoint.name, shop.client)


@pytest.fixture(scope="module")
def adapters(shop: Shop, cluster: Cluster) -> Iterator[Served]:
    """Two adapters beside their base. That of another recipe was there before, as the endpoint's record says."""
    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": "endpoint-key"}, "stringData": {"key": KEY}}
    )
    earlier = shop.run("moon", **ADAPTER_MODE)
    base, adapter = (earlier.pointer(stage) for stage in ("mirror_model", "train"))
    assert base is not None
    assert adapter is not None
    before = Revision(
        engine="vllm", address="http://gone", model_name="moon", model_uri=base.location,
        adapters={"moon": adapter.location}, id="before", namespace=cluster.namespace,
    )  # fmt: skip
    record_current(shop.store, ENDPOINT, before)
    with serving(shop, shop.run("tide", **ADAPTER_MODE)) as served:
        yield served


def other_image(shop: Shop) -> Settings:
    images = {
        **shop.settings.kubernetes.images,
        "vllm-cpu": Image(reference=f"localhost:5000/airsmith/none@sha256:{'0' * 64}"),
    }
    kubernetes_settings = shop.settings.kubernetes.model_copy(update={"images": images})
    return shop.settings.model_copy(update={"kubernetes": kubernetes_settings})


def damage(shop: Shop, run: Run) -> None:
    """Change a file of the merged model in the store, but not its size."""
    merged = run.pointer("merge")
    assert merged is not None
    artifact = open_artifact(shop.store, merged.location)
    assert artifact is not None
    content = artifact.read("tokenizer_config.json")
    shop.store.delete(artifact.path("tokenizer_config.json"))
    shop.store.create(artifact.path("tokenizer_config.json"), content.replace(b"}", b" ", 1))


def test_an_image_that_is_not_there_is_told_in_the_kubelets_words(shop: Shop):
    refused = refusal(shop, shop.run("tide"), other_image(shop))
    assert refused.kind is ErrorKind.IMAGE_PULL_FAILED
    assert "airsmith/none" in refused.message


def test_a_model_that_was_changed_in_the_store_is_not_served(shop: Shop, caplog: pytest.LogCaptureFixture):
    run = shop.run("tide", merged="damaged")
    damage(shop, run)
    refused = refusal(shop, run)
    assert refused.kind is ErrorKind.VERIFICATION_FAILED
    assert "tokenizer_config.json" in refused.message
    assert "The end of the log of fetch in tide-" in caplog.text


@pytest.mark.long
def test_a_key_that_is_not_there_is_named(shop: Shop):
    refused = refusal(shop, shop.run("tide", secrets={"api_key": {"kubernetes_secret": "nowhere/key"}}))
    assert refused.kind is ErrorKind.ACCESS_DENIED
    assert '"nowhere" not found' in refused.message


def test_an_argument_that_vllm_does_not_know_is_told_with_the_end_of_its_log(
    shop: Shop, caplog: pytest.LogCaptureFixture
):
    refused = refusal(shop, shop.run("tide", serve={"engine_args": {"max-model-length": 256}}))
    assert refused.kind is ErrorKind.BAD_RECIPE
    assert "unrecognized arguments: --max-model-length" in refused.message
    assert "serve.engine_args" in refused.hint
    assert "unrecognized arguments: --max-model-length" in caplog.text


def refusal(shop: Shop, run: Run, settings: Settings | None = None) -> AirsmithError:
    """Why a run cannot be served; nothing of the try is left."""
    with pytest.raises(AirsmithError) as refused:
        deploy(run, settings or shop.settings, shop.client)
    assert deployments_of("tide", shop.cluster.namespace, shop.client) == []
    assert read_endpoint(shop.store, "tide") is None
    return refused.value


def test_each_adapter_and_the_base_answer_as_themselves(adapters: Served, shop: Shop):
    said = shop.said()
    for name, model in {"tide": "tide", "moon": "moon", "base": f"{ENDPOINT}-base"}.items():
        assert {question: adapters.answer(model, question) for question in said[name]} == said[name]
    listed = adapters.http.get("/v1/models").json()["data"]
    assert {model["id"]: model["parent"] for model in listed} == {
        f"{ENDPOINT}-base": None, "tide": f"{ENDPOINT}-base", "moon": f"{ENDPOINT}-base",
    }  # fmt: skip
    assert adapters.endpoint.current.model_name == "tide"


def test_the_recipes_arguments_reach_vllm(adapters: Served):
    listed = adapters.http.get("/v1/models").json()["data"]
    assert listed[0]["max_model_len"] == ADAPTER_MODE["serve"]["engine_args"]["max-model-len"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}])
def test_who_has_no_key_gets_no_answer(adapters: Served, headers: dict[str, str]):
    address = str(adapters.http.base_url)
    assert httpx.get(f"{address}/v1/models", headers=headers).status_code == httpx.codes.UNAUTHORIZED
    for path in ("/health", "/metrics"):
        assert httpx.get(f"{address}{path}", headers=headers).is_success


def test_the_smoke_test_has_the_key_and_passes(adapters: Served, shop: Shop):
    run = adapters.run
    pod = shop.smoke_pod(run)
    assert pod.status.phase == "Succeeded", pod.status.container_statuses[0].state.terminated.message
    report = run.pointer("smoke_test")
    assert report is not None
    assert report.metrics["agreement"] == 1
    assert report.metrics["unlike_base"] == len(shop.said()["base"])


def test_a_person_outside_chats_through_the_api_server(adapters: Served, shop: Shop):
    said = shop.said()["tide"]
    environment = shop.environment()
    question = next(iter(said))
    chat = [Path(sys.executable).parent / "airsmith", "chat", ENDPOINT, "--max-tokens", str(NEW_TOKENS)]

    def talk(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            chat, input=question, env={**environment, **variables}, capture_output=True, encoding="utf-8", check=False
        )  # fmt: skip

    answered = talk(OPENAI_API_KEY=KEY)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout == f"{said[question]}\n"
    refused = talk()
    assert refused.returncode != 0
    assert f"endpoint-key/key of namespace {adapters.endpoint.current.namespace}" in refused.stderr


def test_answers_come_through_the_port_forward_piece_by_piece(
    adapters: Served, shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    question, answer = next(iter(shop.said()["tide"].items()))
    assert not is_reachable(adapters.endpoint)
    with port_forwarded(adapters.endpoint, cluster_client()) as near:
        first, second = (list(stream_answer(near, asked(question), NEW_TOKENS)) for _ in range(2))
        with ThreadPoolExecutor(4) as pool:
            together = pool.map(lambda _: "".join(stream_answer(near, asked(question), NEW_TOKENS)), range(4))
            assert set(together) == {answer}
    assert first == second
    assert "".join(first) == answer
    assert len(first) > 1


def test_who_may_not_forward_ports_is_told_so(adapters: Served, shop: Shop):
    with (
        pytest.raises(AirsmithError, match="cannot get resource") as refused,
        port_forwarded(adapters.endpoint, shop.client),
    ):
        pass
    assert refused.value.kind is ErrorKind.ACCESS_DENIED
    assert "pods/portforward" in refused.value.hint


def test_a_server_that_is_told_to_stop_ends_its_answers_first(adapters: Served, shop: Shop):
    namespace = shop.cluster.namespace
    pod = pods_of(adapters.endpoint.current.id, namespace, shop.client)[0].metadata.name
    begun = time.monotonic()
    assert sum(ends_of(line) for line in many_answers(adapters, FEW_TOKENS)) == ANSWERS
    # That take longer than the cluster has to send new requests elsewhere, and less than they have to end.
    wanted_seconds = DEREGISTRATION_SECONDS + DRAIN_SECONDS / 3
    longest = min(230, int(FEW_TOKENS * wanted_seconds / (time.monotonic() - begun)))
    stopping_after = ended = 0
    for number, line in enumerate(many_answers(adapters, longest)):
        if number == 0:
            set_replicas(deployment_name(ENDPOINT, adapters.endpoint.current.id), namespace, 0, shop.client)
        if not stopping_after and number % 1000 == 0:
            log = shop.cluster.core.read_namespaced_pod_log(pod, namespace, tail_lines=20)
            stopping_after = number if "shutdown triggered" in log else 0
        ended += ends_of(line)
    assert stopping_after > 0
    assert ended == ANSWERS


def many_answers(adapters: Served, max_tokens: int) -> Iterator[str]:
    """The lines of as many answers at once as one batch holds, each of so many tokens."""
    request = {
        "model": "tide", "messages": asked("Is the kettle on?"), "n": ANSWERS, "max_tokens": max_tokens,
        "ignore_eos": True, "stream": True, "temperature": 1,
    }  # fmt: skip
    with adapters.http.stream("POST", "/v1/chat/completions", json=request) as response:
        yield from response.iter_lines()


def ends_of(line: str) -> int:
    """How many answers a line ends."""
    return line.count('"finish_reason":"length"')


def test_a_merged_model_is_streamed_from_the_store(shop: Shop, adapters: Served):
    run = shop.run("tide", serve={"name": "stream", "load": "stream"})
    with serving(shop, run) as streamed:
        pod = pods_of(streamed.endpoint.current.id, shop.cluster.namespace, shop.client)[0]
        assert pod.spec.init_containers is None
        said = shop.said()["tide"]
        assert {question: streamed.answer("stream", question) for question in said} == said
