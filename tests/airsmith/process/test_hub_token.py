"""The Hub's token is found where the recipe or the settings say, and a reference that leads nowhere is named."""

from __future__ import annotations

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.hub_token import hub_token, no_connections
from airsmith.recipe import Recipe
from airsmith.settings import Settings

CONNECTIONS = {"hub": "hf_of_the_deployment", "mine": "hf_of_the_recipe"}


def recipe(**hf_token: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tickets",
            "model": {"id": "demo/tiny-llama"},
            "dataset": {"id": "demo/ticket-triage", "validation_split": "validation"},
            "secrets": {"hf_token": hf_token or None},
        }
    )


def test_the_recipes_connection_wins_over_the_deployments():
    settings = Settings(hub_connection="hub")
    assert hub_token(recipe(airflow_connection="mine"), settings, CONNECTIONS.__getitem__) == "hf_of_the_recipe"
    assert hub_token(recipe(), settings, CONNECTIONS.__getitem__) == "hf_of_the_deployment"


def test_the_environment_serves_where_nobody_says_anything(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    assert hub_token(recipe(), Settings(), no_connections) == "hf_of_the_environment"
    monkeypatch.delenv("HF_TOKEN")
    assert hub_token(recipe(), Settings(), no_connections) is None


def test_a_named_variable_is_read_and_missed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEAM_HUB", "hf_of_the_team")
    assert hub_token(recipe(environment="TEAM_HUB"), Settings(), no_connections) == "hf_of_the_team"
    monkeypatch.delenv("TEAM_HUB")
    with pytest.raises(AirsmithError, match="TEAM_HUB, which is not set") as failure:
        hub_token(recipe(environment="TEAM_HUB"), Settings(), no_connections)
    assert failure.value.kind is ErrorKind.ACCESS_DENIED


def test_what_cannot_be_followed_here_says_what_can():
    with pytest.raises(AirsmithError, match="only Airflow can read") as without_airflow:
        hub_token(recipe(airflow_connection="mine"), Settings(), no_connections)
    assert without_airflow.value.kind is ErrorKind.ACCESS_DENIED
    with pytest.raises(AirsmithError, match=r"hf_token\.environment") as without_kubernetes:
        hub_token(recipe(kubernetes_secret="hub/token"), Settings(), no_connections)
    assert without_kubernetes.value.kind is ErrorKind.BAD_RECIPE
