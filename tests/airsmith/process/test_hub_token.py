"""The Hub token is read from the reference in the recipe or the settings; an unusable reference is reported."""

from __future__ import annotations

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.process.hub_token import hub_token, no_connections
from airsmith.recipe import Recipe
from airsmith.settings import Settings
from tests.support.recipes import new_recipe

CONNECTIONS = {"hub": "hf_of_the_deployment", "mine": "hf_of_the_recipe"}


def recipe_with(**hf_token: str) -> Recipe:
    return new_recipe(secrets={"hf_token": hf_token or None})


def test_the_connection_of_the_recipe_wins_over_that_of_the_settings():
    settings = Settings(hub_connection="hub")
    assert hub_token(recipe_with(airflow_connection="mine"), settings, CONNECTIONS.__getitem__) == "hf_of_the_recipe"
    assert hub_token(recipe_with(), settings, CONNECTIONS.__getitem__) == "hf_of_the_deployment"


def test_the_default_token_is_hf_token_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    assert hub_token(recipe_with(), Settings(), no_connections) == "hf_of_the_environment"
    monkeypatch.delenv("HF_TOKEN")
    assert hub_token(recipe_with(), Settings(), no_connections) is None


def test_a_given_variable_is_read_and_reported_if_it_is_not_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEAM_HUB", "hf_of_the_team")
    assert hub_token(recipe_with(environment="TEAM_HUB"), Settings(), no_connections) == "hf_of_the_team"
    monkeypatch.delenv("TEAM_HUB")
    with pytest.raises(AirsmithError, match="TEAM_HUB, which is not set") as failure:
        hub_token(recipe_with(environment="TEAM_HUB"), Settings(), no_connections)
    assert failure.value.kind is ErrorKind.ACCESS_DENIED


def test_an_unusable_reference_is_reported_with_a_usable_one():
    with pytest.raises(AirsmithError, match="only Airflow can read") as without_airflow:
        hub_token(recipe_with(airflow_connection="mine"), Settings(), no_connections)
    assert without_airflow.value.kind is ErrorKind.ACCESS_DENIED
    with pytest.raises(AirsmithError, match=r"hf_token\.environment") as without_kubernetes:
        hub_token(recipe_with(kubernetes_secret="hub/token"), Settings(), no_connections)
    assert without_kubernetes.value.kind is ErrorKind.BAD_RECIPE
