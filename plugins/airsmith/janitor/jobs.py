"""Jobs of trainings on several nodes, of every engine that the cluster has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.jobs import ENGINES, Resource
from airsmith.cluster.jobs.client import FOREGROUND
from airsmith.cluster.jobs.job_kind import Object


@dataclass(frozen=True)
class Job:
    """A job, or what only a job needs, known by its metadata as a pod is."""

    resource: Resource
    metadata: k8s.V1ObjectMeta


def list_jobs(namespace: str, selector: str, client: ApiClient) -> Iterator[Job]:
    """The jobs with these labels, and what was made for a job that is gone.

    :raises ApiException: where the cluster refuses; an engine that it does not have is none.
    """
    for engine in ENGINES.values():
        jobs = _list(engine.RESOURCE, namespace, selector, client)
        yield from jobs
        if engine.COMPANION is not None:
            needed = {job.metadata.name for job in jobs}
            companions = _list(engine.COMPANION, namespace, selector, client)
            yield from (companion for companion in companions if companion.metadata.name not in needed)


def delete_job(job: Job, client: ApiClient) -> None:
    """Delete this very job with its pods, not another that has taken its name.

    :raises ApiException: where the cluster refuses.
    """
    exactly = k8s.V1DeleteOptions(
        propagation_policy=FOREGROUND, preconditions=k8s.V1Preconditions(uid=job.metadata.uid)
    )
    place = (job.resource.group, job.resource.version, job.metadata.namespace, job.resource.plural)
    try:
        CustomObjectsApi(client).delete_namespaced_custom_object(*place, job.metadata.name, body=exactly)
    except ApiException as refusal:
        if refusal.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def _list(resource: Resource, namespace: str, selector: str, client: ApiClient) -> list[Job]:
    place = (resource.group, resource.version, namespace, resource.plural)
    try:
        listed = CustomObjectsApi(client).list_namespaced_custom_object(*place, label_selector=selector)
    except ApiException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            return []
        raise
    return [Job(resource, _metadata(job)) for job in listed["items"]]


def _metadata(job: Object) -> k8s.V1ObjectMeta:
    said = job["metadata"]
    moments = {name: said.get(name) for name in ("creationTimestamp", "deletionTimestamp")}
    parsed = {name: None if text is None else _moment(text) for name, text in moments.items()}
    return k8s.V1ObjectMeta(
        name=said["name"],
        namespace=said["namespace"],
        uid=said["uid"],
        annotations=said.get("annotations") or {},
        creation_timestamp=parsed["creationTimestamp"],
        deletion_timestamp=parsed["deletionTimestamp"],
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
