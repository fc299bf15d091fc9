"""Pods and jobs of stages whose task does not wait for them any more: its run was deleted, or the task has ended."""

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
from airsmith.janitor.runs import ENDED_STATES, TaskStates, ask_airflow

log = logging.getLogger("airsmith")

YOUNGEST = timedelta(minutes=1)
"""A pod as young is left to whoever has made it."""

_Standing = TypeVar("_Standing", k8s.V1Pod, "k8s.V1Pod | Job")


def tidy_pods(namespace: str, airflow: str, task_states: TaskStates, client: ApiClient) -> Section:
    """Delete the orphaned pods and jobs of a namespace.

    :param airflow: whose are judged; those of another Airflow are left alone.
    :raises AirsmithError: where the cluster does not answer; whatever `task_states` raises. Nothing is deleted then.
    """
    standing, now = _standing(namespace, client)
    orphans = list(find_orphans(standing, now, airflow, task_states))
    for orphan, _ in orphans:
        _delete(orphan, client)
    garbage = tuple(Garbage("pods", orphan.metadata.name, reason) for orphan, reason in orphans)
    return Section("pods", garbage, garbage, told=True)


def find_orphans(
    standing: Iterable[_Standing], now: datetime, airflow: str, task_states: TaskStates
) -> Iterator[tuple[_Standing, str]]:
    """The pods and jobs that Airflow says nobody waits for, each with the reason.

    :param now: by the API server's clock.
    """
    owned: dict[str, list[tuple[_Standing, TaskOwner]]] = defaultdict(list)
    foreign = 0
    for pod in standing:
        owner = TaskOwner.of_annotations(pod.metadata.annotations or {})
        if owner is None or owner.airflow != airflow:
            foreign += 1
        elif pod.metadata.deletion_timestamp is None and pod.metadata.creation_timestamp < now - YOUNGEST:
            owned[owner.dag_id].append((pod, owner))
    if foreign:
        log.info("Pods that this Airflow did not make, and that are left alone: %d", foreign)
    for dag_id, known in owned.items():
        states = ask_airflow(dag_id, sorted({owner.run_id for _, owner in known}), task_states)
        for pod, owner in known:
            reason = _why_orphaned(owner, states)
            if reason is not None:
                yield pod, reason


def _why_orphaned(owner: TaskOwner, states: Mapping[str, Mapping[str, str | None]]) -> str | None:
    """Why nobody waits for a pod; None where somebody may. A task that its run does not show proves nothing."""
    if owner.run_id not in states:
        return f"run {owner.run_id} of {owner.dag_id} was deleted in Airflow"
    state = states[owner.run_id].get(owner.task_id)
    if state in ENDED_STATES:
        return f"task {owner.task_id} of run {owner.run_id} is {state}"
    return None


def _standing(namespace: str, client: ApiClient) -> tuple[list[k8s.V1Pod | Job], datetime]:
    """The jobs of stages, the pods of those that are no job's, and the API server's time."""
    core, selector = CoreV1Api(client), f"{PREFIX}stage"
    try:
        listed, _, headers = core.list_namespaced_pod_with_http_info(namespace, label_selector=selector)
        jobs = list(list_jobs(namespace, selector, client))
    except ApiException as refusal:
        raise refused(f"the list of the pods and jobs of {namespace}", refusal) from refusal
    return [*jobs, *(pod for pod in listed.items if not pod.metadata.owner_references)], server_time(headers)


def server_time(headers: Mapping[str, Any]) -> datetime:
    """When a server answered, by its own clock."""
    return parsedate_to_datetime(headers["Date"])


def refused(what: str, refusal: ApiException) -> AirsmithError:
    """What to raise where the cluster refuses."""
    return AirsmithError(
        ErrorKind.ACCESS_DENIED,
        f"The cluster refuses {what}: {refusal.reason or refusal.body}.",
        "See what Airflow's service account may do there: manifests/rbac.yaml.",
    )


def _delete(orphan: k8s.V1Pod | Job, client: ApiClient) -> None:
    """Delete this very pod or job, not another that has taken its name."""
    try:
        if isinstance(orphan, Job):
            delete_job(orphan, client)
        else:
            _delete_pod(orphan, client)
    except ApiException as refusal:
        raise refused(f"the deletion of {orphan.metadata.name}", refusal) from refusal


def _delete_pod(pod: k8s.V1Pod, client: ApiClient) -> None:
    exactly = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=pod.metadata.uid))
    try:
        CoreV1Api(client).delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, body=exactly)
    except ApiException as refusal:
        if refusal.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise
