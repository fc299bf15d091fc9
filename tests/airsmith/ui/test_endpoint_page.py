"""The page of an endpoint: for those who may see it, what is served and the lines that ask it."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends
from starlette.testclient import TestClient

import airsmith_plugin
from airsmith.artifacts.store import Store
from airsmith.registry import Deployment, share_endpoint, swap_endpoint
from airsmith.serving.chat import curl_line
from airsmith.ui.endpoint_page import endpoint_pages


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AIRSMITH_STORE", tmp_path.as_uri())
    return Store.open(tmp_path.as_uri())


@pytest.fixture
def read(store: Store) -> Callable[..., str]:
    """The text of an endpoint's page, as one who may see it gets it."""
    client = TestClient(endpoint_pages(Depends(lambda: None)))

    def page(name: str, status: int = 200) -> str:
        answer = client.get(f"/endpoints/{name}")
        assert answer.status_code == status
        return answer.text

    return page


def deployment(version: int, **changes: Any) -> Deployment:
    known = {"engine": "vllm", "address": "http://triage.ml:8000", "model_name": "triage", "model_uri": "m"}
    return Deployment.model_validate({**known, "version": version, "deployment": f"d{version}", **changes})


def test_it_shows_the_line_for_curl_of_what_is_served_now(store: Store, read: Callable[..., str]):
    swap_endpoint(store, "triage", deployment(1, namespace="ml"))
    endpoint = swap_endpoint(store, "triage", deployment(2, namespace="ml"))
    page = read("triage")
    assert "Serves triage version 2 by vllm, in namespace ml" in page
    assert html.escape(curl_line(endpoint)) in page
    assert "airsmith chat triage" in page


def test_a_version_beside_is_shown_with_its_share(store: Store, read: Callable[..., str]):
    swap_endpoint(store, "triage", deployment(1, namespace="ml"))
    share_endpoint(store, "triage", deployment(2, namespace="ml"), 20)
    assert "Version 2 beside it takes 20 % of the requests." in read("triage")


def test_a_key_is_shown_as_the_command_that_reads_it(store: Store, read: Callable[..., str]):
    swap_endpoint(store, "triage", deployment(1, namespace="ml", api_key="models.key/api.key"))
    command = "kubectl --namespace ml get secret models.key -o jsonpath='{.data.api\\.key}' | base64 -d"
    assert html.escape(f"export OPENAI_API_KEY=$({command})") in read("triage")


def test_what_is_served_is_text_and_never_markup(store: Store, read: Callable[..., str]):
    swap_endpoint(store, "triage", deployment(1, model_name="<script>alert(1)</script>"))
    assert "<script>" not in read("triage")


@pytest.mark.parametrize("name", ["nobody", "No%20Name"])
def test_an_endpoint_that_is_not_there_is_said_so(store: Store, read: Callable[..., str], name: str):
    swap_endpoint(store, "triage", deployment(1))
    assert "ndpoint" in read(name, 404)


def test_who_is_not_logged_in_sees_nothing(store: Store):
    swap_endpoint(store, "triage", deployment(1))
    answer = TestClient(airsmith_plugin.pages).get("/endpoints/triage")
    assert answer.status_code == 401
    assert "triage" not in answer.text
