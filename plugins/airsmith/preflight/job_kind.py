"""What a training on several nodes needs: the cluster runs the recipe's kind of job."""

from __future__ import annotations

from kubernetes.client import ApiClient
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from airsmith.cluster.jobs import JOB_KINDS, Resource
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.operation import Backend


def check_job_kind(backend: Backend, client: ApiClient) -> None:
    """See that the API server knows the jobs of `backend.job`, where several nodes train.

    :raises AirsmithError: `not_found`, naming the job kinds that are there.
    """
    if backend.nodes == 1:
        return
    cluster = DynamicClient(client)
    there = [name for name, job_kind in JOB_KINDS.items() if _is_served(job_kind.RESOURCE, cluster)]
    if backend.job not in there:
        kind = JOB_KINDS[backend.job].RESOURCE.kind
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"backend.nodes is {backend.nodes} and backend.job is {backend.job!r}, but the cluster knows no {kind}.",
            f"Install what runs it, or set backend.job to {' or '.join(there)}."
            if there
            else "Install what runs it, or set backend.nodes to 1.",
        )


def _is_served(resource: Resource, cluster: DynamicClient) -> bool:
    try:
        cluster.resources.get(api_version=resource.api_version, kind=resource.kind)
    except ResourceNotFoundError:
        return False
    return True
