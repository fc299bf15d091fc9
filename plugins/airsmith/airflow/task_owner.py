"""Who a pod works for, as Airflow knows it."""

from __future__ import annotations

import socket

from airflow.sdk.configuration import conf
from airflow.sdk.definitions.context import Context

from airsmith.cluster.labels import TaskOwner


def task_owner(context: Context) -> TaskOwner:
    """The task that is running."""
    instance = context["ti"]
    # As Airflow names the instances of a mapped task where it tells their states.
    index = "" if instance.map_index is None or instance.map_index < 0 else f"_{instance.map_index}"
    return TaskOwner(this_airflow(), instance.dag_id, instance.run_id, f"{instance.task_id}{index}")


def this_airflow() -> str:
    """What tells this Airflow from others: the addresses at which people and workers reach it, else its machine."""
    addresses = (conf.get("api", "base_url", fallback=""), conf.get("core", "execution_api_server_url", fallback=""))
    return " ".join(address for address in addresses if address) or socket.gethostname()
