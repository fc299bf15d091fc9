"""Airflow connections: the Hub's token and the cluster of the pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.settings import Settings

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


def connection_password(connection_id: str) -> str:
    """Password of an Airflow connection.

    :raises AirsmithError: `access_denied` where there is no such connection or it has no password.
    """
    try:
        password = Connection.get(connection_id).password
    except AirflowNotFoundException:
        password = None
    if not password:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The Hub's token should be the password of the Airflow connection {connection_id!r}, which has none.",
            f"Create the connection: airflow connections add {connection_id} --conn-type http --conn-password <token>",
        )
    return str(password)


def cluster_client(settings: Settings) -> ApiClient:
    """A client of the cluster that runs the pods, from the Airflow connection that the settings name."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook  # half a second of imports

    client: ApiClient = KubernetesHook(conn_id=settings.kubernetes.connection).get_conn()
    return client
