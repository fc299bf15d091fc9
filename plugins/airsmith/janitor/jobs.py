"""Jobs of trainings on several nodes, of every engine that the cluster has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.runtimes.engines import ENGINES, Resource
from airsmith.runtimes.engines.engine import Object
from airsmith.runtimes.jobs import FOREGROUND

_MISSING, _CONFLICT = 404, 409


@dataclass(frozen=True)
class Job:
    """A job, known by its metadata as a pod is."""

    resource: Resource
    metadata: k8s.V1ObjectMeta


def list_jobs(namespace: str, selector: str, client: ApiClient) -> Iterator[Job]:
    """The jobs with these labels.

    :raises ApiException: where the cluster refuses; an engine that it does not have is none.
    """
    for engine in ENGINES.values():
        resource = engine.RESOURCE
        place = (resource.group, resource.version, namespace, resource.plural)
        try:
            listed = CustomObjectsApi(client).list_namespaced_custom_object(*place, label_selector=selector)
        except ApiException as refusal:
            if refusal.status == _MISSING:
                continue
            raise
        for job in listed["items"]:
            yield Job(resource, _metadata(job))


def delete_job(job: Job, client: ApiClient) -> None:
    """Delete this very job with its pods, not another that has taken its name.

    :raises ApiException: where the cluster refuses.
    """
    engine = next(engine for engine in ENGINES.values() if job.resource == engine.RESOURCE)
    exactly = k8s.V1DeleteOptions(
        propagation_policy=FOREGROUND, preconditions=k8s.V1Preconditions(uid=job.metadata.uid)
    )
    _delete(job.resource, job.metadata, exactly, client)
    if engine.COMPANION is not None:
        _delete(engine.COMPANION, job.metadata, k8s.V1DeleteOptions(), client)


def _delete(resource: Resource, metadata: k8s.V1ObjectMeta, how: k8s.V1DeleteOptions, client: ApiClient) -> None:
    place = (resource.group, resource.version, metadata.namespace, resource.plural)
    try:
        CustomObjectsApi(client).delete_namespaced_custom_object(*place, metadata.name, body=how)
    except ApiException as refusal:
        if refusal.status not in (_MISSING, _CONFLICT):
            raise


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
