"""Two models behind one endpoint, served by vLLM: the answers identify the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from airsmith.contracts.run import Run
from airsmith.registry import ModelVersionDraft, register_version
from tests.cluster.endpoint_dag import EndpointDag, endpoint_dag
from tests.cluster.installation import REPOSITORY, Cluster, Installation
from tests.cluster.trained_models import TrainedModels, trained_models

ENDPOINT = "shore"
REQUESTS = 60
CUT_SHORT = "\N{REPLACEMENT CHARACTER}"
NEW_TOKENS = 16
VERIFIED = {"change": "success", "smoke_test": "success"}

pytestmark = [pytest.mark.long, pytest.mark.images("cpu", "vllm-cpu")]


@pytest.fixture(scope="module")
def models(cluster: Cluster, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedModels]:
    """Two registered models."""
    with trained_models(tmp_path_factory.mktemp("models"), cluster, images, cluster.core.api_client) as models:
        for name in ("tide", "moon"):
            register(models, models.finished_run(name))
        yield models


def register(models: TrainedModels, run: Run) -> None:
    made = {stage: run.pointer(stage) for stage in ("mirror_model", "merge", "evaluate")}
    base_model, model, evaluation = (pointer.location for pointer in made.values() if pointer is not None)
    draft = ModelVersionDraft(
        digest="d", model=model, base_model=base_model, base={"id": "tests/base"}, evaluation=evaluation,
        recipe_digest="r", run=run.path,
    )  # fmt: skip
    register_version(models.store, run.read_spec().recipe.name, draft)


@pytest.fixture(scope="module")
def endpoint(installation: Installation, models: TrainedModels, cluster: Cluster) -> Iterator[EndpointDag]:
    dag_file = (REPOSITORY / "dags" / "endpoint.py").read_text()
    with endpoint_dag(ENDPOINT, dag_file, installation, cluster, models.store) as endpoint:
        yield endpoint


def models_that_answer(endpoint: EndpointDag, models: TrainedModels) -> Counter[str]:
    """Number of answers by model."""
    expected = models.expected_answers()
    question = next(iter(expected["tide"]))
    by_answer = {expected[model][question]: model for model in ("tide", "moon")}
    messages = [{"role": "user", "content": question}]
    request = {"model": ENDPOINT, "messages": messages, "temperature": 0, "max_tokens": NEW_TOKENS}

    def ask(_: int) -> str:
        answer = httpx.post(f"{endpoint.address()}/v1/chat/completions", json=request, timeout=60).raise_for_status()
        return by_answer[answer.json()["choices"][0]["message"]["content"].rstrip(CUT_SHORT)]

    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(ask, range(REQUESTS)))


def test_two_models_share_an_endpoint_until_one_takes_over(endpoint: EndpointDag, models: TrainedModels):
    assert endpoint.trigger("deploy", model="tide", version=1) == VERIFIED, endpoint.log()
    assert models_that_answer(endpoint, models) == {"tide": REQUESTS}

    assert endpoint.trigger("deploy", model="moon", version=1, percent=25) == VERIFIED, endpoint.log()
    assert "1 of 2 replicas receive 50 % of the connections" in endpoint.log()
    assert endpoint.record().canary_percent == 50
    shared = models_that_answer(endpoint, models)
    assert 0.2 * REQUESTS < shared["moon"] < 0.8 * REQUESTS
    assert shared.total() == REQUESTS

    assert endpoint.trigger("shift_traffic", percent=100) == VERIFIED, endpoint.log()
    assert models_that_answer(endpoint, models) == {"moon": REQUESTS}

    assert endpoint.trigger("roll_back")["change"] == "success", endpoint.log()
    assert models_that_answer(endpoint, models) == {"tide": REQUESTS}
    assert endpoint.trigger("stop")["change"] == "success"
