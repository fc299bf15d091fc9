"""Orphaned pods and jobs of stages: their Airflow run was deleted, or their task is finished."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.labels import PREFIX, TaskOwner
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.garbage import Garbage
from airsmith.janitor.jobs import Job, delete_job, list_jobs
from airsmith.janitor.report import Section
from airsmith.janitor.runs import FINISHED_STATES, TaskStates, query_task_states

log = logging.getLogger("airsmith")

MIN_AGE = timedelta(minutes=1)
"""Younger pods are ignored: their task may not have started to wait for them."""

_PodOrJob = TypeVar("_PodOrJob", k8s.V1Pod, "k8s.V1Pod | Job")


def tidy_pods(namespace: str, airflow: str, task_states: TaskStates, client: ApiClient) -> Section:
    """Delete the orphaned pods and jobs of a namespace.

    :param airflow: name of the Airflow installation; pods of others are ignored.
    :raises AirsmithError: if the cluster or Airflow does not respond; nothing is deleted then.
    """
    existing, now = _list_pods_and_jobs(namespace, client)
    orphans = list(find_orphans(existing, now, airflow, task_states))
    for orphan, _ in orphans:
        _delete(orphan, client)
    garbage = tuple(Garbage("pods", orphan.metadata.name, reason) for orphan, reason in orphans)
    return Section("pods", garbage, garbage, is_deleted=True)


def find_orphans(
    existing: Iterable[_PodOrJob], now: datetime, airflow: str, task_states: TaskStates
) -> Iterator[tuple[_PodOrJob, str]]:
    """The pods and jobs for which no Airflow task waits, each with the reason.

    :param now: time of the API server.
    """
    owned: dict[str, list[tuple[_PodOrJob, TaskOwner]]] = defaultdict(list)
    foreign = 0
    for pod in existing:
        owner = TaskOwner.of_annotations(pod.metadata.annotations or {})
        if owner is None or owner.airflow != airflow:
            foreign += 1
        elif pod.metadata.deletion_timestamp is None and pod.metadata.creation_timestamp < now - MIN_AGE:
            owned[owner.dag_id].append((pod, owner))
    if foreign:
        log.info("Ignored pods that another Airflow created: %d", foreign)
    for dag_id, pods in owned.items():
        states = query_task_states(dag_id, sorted({owner.run_id for _, owner in pods}), task_states)
        for pod, owner in pods:
            reason = _orphan_reason(owner, states)
            if reason is not None:
                yield pod, reason


def _orphan_reason(owner: TaskOwner, states: Mapping[str, Mapping[str, str | None]]) -> str | None:
    """Why no task waits for a pod; None if one may wait. A task that is missing from its run proves nothing."""
    if owner.run_id not in states:
        return f"run {owner.run_id} of {owner.dag_id} was deleted in Airflow"
    state = states[owner.run_id].get(owner.task_id)
    if state in FINISHED_STATES:
        return f"task {owner.task_id} of run {owner.run_id} is {state}"
    return None


def _list_pods_and_jobs(namespace: str, client: ApiClient) -> tuple[list[k8s.V1Pod | Job], datetime]:
    """The jobs of stages, their pods that belong to no job, and the API server's time."""
    core, selector = CoreV1Api(client), f"{PREFIX}stage"
    try:
        listed, _, headers = core.list_namespaced_pod_with_http_info(namespace, label_selector=selector)
        jobs = list(list_jobs(namespace, selector, client))
    except ApiException as error:
        raise access_error(f"the list of the pods and jobs of {namespace}", error) from error
    return [*jobs, *(pod for pod in listed.items if not pod.metadata.owner_references)], server_time(headers)


def server_time(headers: Mapping[str, Any]) -> datetime:
    """The time of a response, by the server's clock."""
    return parsedate_to_datetime(headers["Date"])


def access_error(what: str, error: ApiException) -> AirsmithError:
    """The error for a request that the cluster rejects.

    :param what: names the request.
    """
    return AirsmithError(
        ErrorKind.ACCESS_DENIED,
        f"The cluster rejects {what}: {error.reason or error.body}.",
        "Check the permissions of Airflow's service account: manifests/rbac.yaml.",
    )


def _delete(orphan: k8s.V1Pod | Job, client: ApiClient) -> None:
    """Delete a pod or job. The uid ensures that a new one with the same name stays."""
    try:
        if isinstance(orphan, Job):
            delete_job(orphan, client)
        else:
            _delete_pod(orphan, client)
    except ApiException as error:
        raise access_error(f"the deletion of {orphan.metadata.name}", error) from error


def _delete_pod(pod: k8s.V1Pod, client: ApiClient) -> None:
    options = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=pod.metadata.uid))
    try:
        CoreV1Api(client).delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, body=options)
    except ApiException as error:
        if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise
