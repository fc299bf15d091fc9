"""Jobs of trainings on several nodes, of every job kind that the cluster supports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.jobs import JOB_KINDS, Resource
from airsmith.cluster.jobs.client import FOREGROUND
from airsmith.cluster.jobs.job_kind import Object


@dataclass(frozen=True)
class Job:
    """A job or its companion object, with its metadata."""

    resource: Resource
    metadata: k8s.V1ObjectMeta


def list_jobs(namespace: str, selector: str, client: ApiClient) -> Iterator[Job]:
    """The jobs with these labels, and the companion objects whose job no longer exists.

    :raises ApiException: if the cluster rejects the request; job kinds that it does not support are skipped.
    """
    for job_kind in JOB_KINDS.values():
        jobs = _list(job_kind.RESOURCE, namespace, selector, client)
        yield from jobs
        if job_kind.COMPANION is not None:
            needed = {job.metadata.name for job in jobs}
            companions = _list(job_kind.COMPANION, namespace, selector, client)
            yield from (companion for companion in companions if companion.metadata.name not in needed)


def delete_job(job: Job, client: ApiClient) -> None:
    """Delete a job and its pods. The uid ensures that a new job with the same name stays.

    :raises ApiException: if the cluster rejects the request.
    """
    options = k8s.V1DeleteOptions(
        propagation_policy=FOREGROUND, preconditions=k8s.V1Preconditions(uid=job.metadata.uid)
    )
    place = (job.resource.group, job.resource.version, job.metadata.namespace, job.resource.plural)
    try:
        CustomObjectsApi(client).delete_namespaced_custom_object(*place, job.metadata.name, body=options)
    except ApiException as error:
        if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def _list(resource: Resource, namespace: str, selector: str, client: ApiClient) -> list[Job]:
    place = (resource.group, resource.version, namespace, resource.plural)
    try:
        listed = CustomObjectsApi(client).list_namespaced_custom_object(*place, label_selector=selector)
    except ApiException as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return []
        raise
    return [Job(resource, _metadata(job)) for job in listed["items"]]


def _metadata(job: Object) -> k8s.V1ObjectMeta:
    metadata = job["metadata"]
    times = {name: metadata.get(name) for name in ("creationTimestamp", "deletionTimestamp")}
    parsed = {name: None if text is None else _parse_time(text) for name, text in times.items()}
    return k8s.V1ObjectMeta(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        annotations=metadata.get("annotations") or {},
        creation_timestamp=parsed["creationTimestamp"],
        deletion_timestamp=parsed["deletionTimestamp"],
    )


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
