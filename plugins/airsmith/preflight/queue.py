"""Kueue's side of a recipe: its queue and its priority exist, and the queue takes work."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.checks import Check, check_all
from airsmith.recipe.operation import Backend

GROUP = "kueue.x-k8s.io"


def refuse_missing_queue(backend: Backend, namespace: str, client: ApiClient) -> None:
    """See that the recipe's queue and priority are there.

    :raises AirsmithError: `not_found`, `access_denied`, or `unschedulable` for a queue that is stopped.
    """
    if backend.queue is None:
        return
    queue, priority = backend.queue, backend.priority
    cluster = DynamicClient(client)
    checks: list[Check] = [lambda: _refuse_stopped(_find(cluster, "LocalQueue", queue, namespace, "backend.queue"))]
    if priority is not None:
        checks.append(lambda: _find(cluster, "WorkloadPriorityClass", priority, None, "backend.priority") and None)
    check_all(checks)


def _find(cluster: DynamicClient, kind: str, name: str, namespace: str | None, field: str) -> Any:
    place = f" in namespace {namespace}" if namespace else ""
    try:
        return cluster.resources.get(group=GROUP, kind=kind).get(name=name, namespace=namespace)
    except ResourceNotFoundError as absent:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"{field} is {name!r}, but the cluster knows no {kind}: Kueue is not installed.",
            f"Install Kueue, or remove {field}.",
        ) from absent
    except ApiException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"{field} is {name!r}, but there is no such {kind}{place}.",
                f"Create it, or correct {field}.",
            ) from refusal
        if refusal.status == HTTPStatus.FORBIDDEN:
            raise AirsmithError(
                ErrorKind.ACCESS_DENIED,
                f"Airflow's service account may not read the {kind} {name}{place}.",
                "Apply manifests/rbac.yaml.",
            ) from refusal
        raise


def _refuse_stopped(queue: Any) -> None:
    for condition in queue.to_dict().get("status", {}).get("conditions", ()):
        if condition["type"] == "Active" and condition["status"] == "False":
            raise AirsmithError(
                ErrorKind.UNSCHEDULABLE,
                f"The queue {queue.metadata.name} takes no work: {str(condition.get('message')).rstrip('.')}.",
                "See its ClusterQueue, or choose another backend.queue.",
            )
