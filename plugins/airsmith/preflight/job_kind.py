"""Checks that the cluster supports the recipe's job kind."""

from __future__ import annotations

from kubernetes.client import ApiClient
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from airsmith.cluster.jobs import JOB_KINDS, Resource
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.operation import Backend


def check_job_kind(backend: Backend, client: ApiClient) -> None:
    """Check that the API server serves the kind of `backend.job` if the training has several nodes.

    :raises AirsmithError: `not_found`, naming the supported job kinds.
    """
    if backend.nodes == 1:
        return
    cluster = DynamicClient(client)
    served = [name for name, job_kind in JOB_KINDS.items() if _is_served(job_kind.RESOURCE, cluster)]
    if backend.job not in served:
        kind = JOB_KINDS[backend.job].RESOURCE.kind
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"backend.job is {backend.job!r} for {backend.nodes} nodes, but the cluster does not support {kind}.",
            f"Install its controller, or set backend.job to {' or '.join(served)}."
            if served
            else "Install its controller, or set backend.nodes to 1.",
        )


def _is_served(resource: Resource, cluster: DynamicClient) -> bool:
    try:
        cluster.resources.get(api_version=resource.api_version, kind=resource.kind)
    except ResourceNotFoundError:
        return False
    return True
