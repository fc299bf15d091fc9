"""Two real models behind one endpoint, served by vLLM: who answers is known by what is said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from airsmith.contracts.run import Run
from airsmith.registry import ModelVersionDraft, register_version
from tests.cluster.deploying import REPOSITORY, Cluster, Deployment
from tests.cluster.endpoint_form import EndpointForm, endpoint_form
from tests.cluster.shop import Shop, open_shop

ENDPOINT = "shore"
REQUESTS = 60
CUT_SHORT = "\N{REPLACEMENT CHARACTER}"
NEW_TOKENS = 16
PROVED = {"change": "success", "smoke_test": "success"}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def shop(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Two models, each the first version of its name; they lie where the deployment has its store."""
    images = Path(os.environ["AIRSMITH_TEST_SETTINGS"])
    with open_shop(tmp_path_factory.mktemp("shop"), cluster, images, cluster.core.api_client) as shop:
        for name in ("tide", "moon"):
            register(shop, shop.run(name))
        yield shop


def register(shop: Shop, run: Run) -> None:
    made = {stage: run.pointer(stage) for stage in ("mirror_model", "merge", "evaluate")}
    base_model, model, evaluation = (pointer.location for pointer in made.values() if pointer is not None)
    draft = ModelVersionDraft(
        digest="d", model=model, base_model=base_model, base={"id": "tests/base"}, evaluation=evaluation,
        recipe_digest="r", run=run.path,
    )  # fmt: skip
    register_version(shop.store, run.read_spec().recipe.name, draft)


@pytest.fixture(scope="module")
def form(deployment: Deployment, shop: Shop, cluster: Cluster) -> Iterator[EndpointForm]:
    dag_file = (REPOSITORY / "dags" / "endpoint.py").read_text()
    with endpoint_form(ENDPOINT, dag_file, deployment, cluster, shop.store) as form:
        yield form


def models_that_answer(form: EndpointForm, shop: Shop) -> Counter[str]:
    """How many of the requests each model answers, by what only it says."""
    said = shop.said()
    question = next(iter(said["tide"]))
    by_answer = {said[model][question]: model for model in ("tide", "moon")}
    messages = [{"role": "user", "content": question}]
    request = {"model": ENDPOINT, "messages": messages, "temperature": 0, "max_tokens": NEW_TOKENS}

    def ask(_: int) -> str:
        answer = httpx.post(f"{form.address()}/v1/chat/completions", json=request, timeout=60).raise_for_status()
        return by_answer[answer.json()["choices"][0]["message"]["content"].rstrip(CUT_SHORT)]

    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(ask, range(REQUESTS)))


def test_two_models_share_an_endpoint_and_the_second_takes_over_and_goes(form: EndpointForm, shop: Shop):
    assert form.trigger("deploy", model="tide", version=1) == PROVED, form.said()
    assert models_that_answer(form, shop) == {"tide": REQUESTS}

    assert form.trigger("deploy", model="moon", version=1, percent=25) == PROVED, form.said()
    assert "1 of 2 servers take 50 % of the connections" in form.said()
    assert form.record().canary_percent == 50
    shared = models_that_answer(form, shop)
    assert 0.2 * REQUESTS < shared["moon"] < 0.8 * REQUESTS
    assert shared.total() == REQUESTS

    assert form.trigger("shift_traffic", percent=100) == PROVED, form.said()
    assert models_that_answer(form, shop) == {"moon": REQUESTS}

    assert form.trigger("roll_back")["change"] == "success", form.said()
    assert models_that_answer(form, shop) == {"tide": REQUESTS}
    assert form.trigger("stop")["change"] == "success"
