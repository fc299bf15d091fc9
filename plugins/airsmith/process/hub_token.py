"""The Hub's token, looked up where the recipe or the settings say and never written anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.settings import Settings

ReadConnection = Callable[[str], str]
"""Takes the id of an Airflow connection and gives its password; raises `access_denied` where there is none."""


def hub_token(recipe: Recipe, settings: Settings, read_connection: ReadConnection) -> str | None:
    """The token for gated and private repositories: the recipe's secret, else the deployment's, else HF_TOKEN.

    :raises AirsmithError: `access_denied` where a reference leads nowhere, `bad_recipe` where it cannot be followed.
    """
    reference = recipe.secrets.hf_token
    if reference is None:
        return read_connection(settings.hub_connection) if settings.hub_connection else os.environ.get("HF_TOKEN")
    if reference.airflow_connection:
        return read_connection(reference.airflow_connection)
    if reference.environment:
        return _from_environment(reference.environment)
    if settings.uses_cluster:  # The pods have it; the worker, which only pins revisions, has its own or none.
        return read_connection(settings.hub_connection) if settings.hub_connection else os.environ.get("HF_TOKEN")
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        "secrets.hf_token.kubernetes_secret names a Kubernetes Secret, which a process on this machine cannot read.",
        "Use secrets.hf_token.airflow_connection or secrets.hf_token.environment.",
    )


def no_connections(connection_id: str) -> str:
    """What `read_connection` is where Airflow is absent.

    :raises AirsmithError: `access_denied`, always.
    """
    raise AirsmithError(
        ErrorKind.ACCESS_DENIED,
        f"The Hub's token lies in the Airflow connection {connection_id!r}, which only Airflow can read.",
        "Run the recipe's DAG, or use secrets.hf_token.environment.",
    )


def _from_environment(name: str) -> str:
    token = os.environ.get(name)
    if not token:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"secrets.hf_token.environment names the variable {name}, which is not set.",
            f"Set {name} where Airflow's worker runs.",
        )
    return token
