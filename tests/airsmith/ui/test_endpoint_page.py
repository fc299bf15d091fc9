"""The page of an endpoint: access, what is served, and the commands that query it."""

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
from airsmith.registry import Revision, record_canary, record_current
from airsmith.serving.chat import curl_command
from airsmith.ui.endpoint_page import endpoint_pages
from tests.support.registry import new_revision


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AIRSMITH_STORE", tmp_path.as_uri())
    return Store.open(tmp_path.as_uri())


@pytest.fixture
def read_page(store: Store) -> Callable[..., str]:
    """Returns the page of an endpoint for an authorized user."""
    client = TestClient(endpoint_pages(Depends(lambda: None)))

    def page(name: str, status: int = 200) -> str:
        response = client.get(f"/endpoints/{name}")
        assert response.status_code == status
        return response.text

    return page


def revision(version: int, **changes: Any) -> Revision:
    known = {"address": "http://triage.ml:8000", "version": version, "id": f"d{version}"}
    return new_revision(**{"name": changes.pop("model_name", "triage"), **known, **changes})


def test_the_page_has_the_curl_line_of_the_current_revision(store: Store, read_page: Callable[..., str]):
    record_current(store, "triage", revision(1, namespace="ml"))
    endpoint = record_current(store, "triage", revision(2, namespace="ml"))
    page = read_page("triage")
    assert "Serves triage version 2 with vllm, in namespace ml" in page
    assert html.escape(curl_command(endpoint)) in page
    assert "airsmith chat triage" in page


def test_the_page_has_the_canary_with_its_percentage(store: Store, read_page: Callable[..., str]):
    record_current(store, "triage", revision(1, namespace="ml"))
    record_canary(store, "triage", revision(2, namespace="ml"), 20)
    assert "Canary: version 2 receives 20 % of the requests." in read_page("triage")


def test_an_api_key_is_shown_as_the_command_that_reads_it(store: Store, read_page: Callable[..., str]):
    record_current(store, "triage", revision(1, namespace="ml", api_key="models.key/api.key"))
    command = "kubectl --namespace ml get secret models.key -o jsonpath='{.data.api\\.key}' | base64 -d"
    assert html.escape(f"export OPENAI_API_KEY=$({command})") in read_page("triage")


def test_values_of_the_endpoint_are_escaped(store: Store, read_page: Callable[..., str]):
    record_current(store, "triage", revision(1, model_name="<script>alert(1)</script>"))
    assert "<script>" not in read_page("triage")


@pytest.mark.parametrize("name", ["missing", "No%20Name"])
def test_a_missing_endpoint_is_a_404(store: Store, read_page: Callable[..., str], name: str):
    record_current(store, "triage", revision(1))
    assert "ndpoint" in read_page(name, 404)


def test_the_page_requires_a_login(store: Store):
    record_current(store, "triage", revision(1))
    response = TestClient(airsmith_plugin.pages).get("/endpoints/triage")
    assert response.status_code == 401
    assert "triage" not in response.text
