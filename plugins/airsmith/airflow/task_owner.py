"""The task that owns a pod."""

from __future__ import annotations

import socket

from airflow.sdk.configuration import conf
from airflow.sdk.definitions.context import Context

from airsmith.cluster.labels import TaskOwner


def task_owner(context: Context) -> TaskOwner:
    """The running task."""
    instance = context["ti"]
    # The suffix under which Airflow reports the states of a mapped task's instances.
    index = "" if instance.map_index is None or instance.map_index < 0 else f"_{instance.map_index}"
    return TaskOwner(this_airflow(), instance.dag_id, instance.run_id, f"{instance.task_id}{index}")


def this_airflow() -> str:
    """An identifier of this Airflow installation: the addresses for users and workers, or the host name."""
    addresses = (conf.get("api", "base_url", fallback=""), conf.get("core", "execution_api_server_url", fallback=""))
    return " ".join(address for address in addresses if address) or socket.gethostname()
