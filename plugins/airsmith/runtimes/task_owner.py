"""Who a pod works for, as Airflow knows it."""

from __future__ import annotations

import socket

from airflow.sdk.configuration import conf
from airflow.sdk.definitions.context import Context

from airsmith.runtimes.pod_labels import TaskOwner


def task_owner(context: Context) -> TaskOwner:
    """The task that is running."""
    instance = context["ti"]
    return TaskOwner(this_airflow(), instance.dag_id, instance.run_id, instance.task_id)


def this_airflow() -> str:
    """What tells this Airflow from others: the addresses at which people and workers reach it, else its machine."""
    addresses = (conf.get("api", "base_url", fallback=""), conf.get("core", "execution_api_server_url", fallback=""))
    return " ".join(address for address in addresses if address) or socket.gethostname()
