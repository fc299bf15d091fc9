"""The demo's recipe, unchanged, on a cluster: every stage in a pod, every artifact in the store, served by vLLM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.registry import read_endpoint
from airsmith.serving.cluster.manifests import PORT, service_name
from tests.cluster.dag_runs import settings_with
from tests.cluster.installation import REPOSITORY, Cluster, Installation, stop_endpoint

pytestmark = [pytest.mark.core, pytest.mark.images("cpu", "train-cpu", "vllm-cpu")]

DAG_ID = "finetune_ticket_triage"
ENDPOINT = "ticket-triage"


@pytest.fixture(scope="module")
def fresh(installation: Installation) -> Installation:
    """The installation with an empty store."""
    store = Store.open(f"{installation.store.uri}/fresh")
    settings = settings_with(installation, "fresh", store=store.uri)
    shutil.copy(REPOSITORY / "dags" / "recipes" / "ticket-triage.yaml", installation.folder / "dags" / "recipes")
    return replace(installation, store=store, environment={**installation.environment, **settings})


@pytest.fixture(scope="module")
def first_log(fresh: Installation) -> str:
    return fresh.finish(fresh.start("dags", "test", DAG_ID))


@pytest.fixture(scope="module")
def first_run(fresh: Installation, first_log: str) -> Iterator[Run]:
    yield fresh.runs()[-1]
    stop_endpoint(fresh.store, ENDPOINT)


def names_of_pods(cluster: Cluster) -> set[str]:
    return {pod.metadata.name for pod in cluster.pods(f"{ENDPOINT}-") if pod.metadata.deletion_timestamp is None}


def test_every_stage_runs_in_a_pod_and_has_an_output(first_run: Run, first_log: str, cluster: Cluster) -> None:
    for plan in first_run.read_spec().plan.stages:
        pointer = first_run.pointer(plan.stage)
        assert pointer is not None, plan.stage
        assert not pointer.cached
        assert plan.runs_in_worker or f"ticket-triage-{plan.stage.replace('_', '-')}-" in first_log
    assert {name.rpartition("-")[0].rpartition("-")[0] for name in names_of_pods(cluster)} == {
        serving_object(first_run)
    }


def serving_object(run: Run) -> str:
    endpoint = read_endpoint(run.store, ENDPOINT)
    assert endpoint is not None
    return f"{ENDPOINT}-{endpoint.current.id[:8]}"


def test_the_service_answers_with_the_tuned_model(first_run: Run, cluster: Cluster) -> None:
    evaluated = first_run.pointer("evaluate")
    assert evaluated is not None
    artifact = open_artifact(first_run.store, evaluated.location)
    assert artifact is not None
    rows = [json.loads(line) for line in artifact.read("answers.jsonl").decode().splitlines()]
    ip = cluster.core.read_namespaced_service(service_name(ENDPOINT), cluster.namespace).spec.cluster_ip
    with httpx.Client(base_url=f"http://{ip}:{PORT}", timeout=60) as client, ThreadPoolExecutor(4) as pool:

        def ask(row: dict[str, object]) -> bool:
            request = {"model": ENDPOINT, "messages": row["messages"], "temperature": 0, "max_tokens": 32}
            answer = client.post("/v1/chat/completions", json=request).raise_for_status().json()
            return answer["choices"][0]["message"]["content"].strip() == row["expected"]

        right = list(pool.map(ask, rows))
    assert sum(right) / len(right) >= 0.95


def test_a_second_run_starts_no_pod(fresh: Installation, first_run: Run, cluster: Cluster) -> None:
    before = names_of_pods(cluster)
    log = fresh.finish(fresh.start("dags", "test", DAG_ID))
    again = fresh.runs()[-1]
    assert again.path != first_run.path
    assert {status.state for status in again.statuses().values()} == {"cached"}
    assert "Building pod" not in log
    assert names_of_pods(cluster) == before


def test_the_spec_names_the_images_by_digest(first_run: Run) -> None:
    spec = first_run.read_spec()
    images = spec.images
    assert set(images) == {plan.image for plan in spec.plan.stages}
    assert all("@sha256:" in reference for reference in images.values())
