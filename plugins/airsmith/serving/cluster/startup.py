"""Waiting for a revision in a cluster, and the reason if one of its pods does not start."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.access import find_deployment, pods_of
from airsmith.cluster.pod_failures import failure_of, unscheduled_reason, waiting_reason
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.serving.cluster.server_failures import (
    describe_progress,
    failed_container,
    is_complete,
    is_terminated,
    pod_creation_error,
    server_failure,
)

log = logging.getLogger("airsmith")

POLL_SECONDS = 1.0
POD_CREATION_GRACE_SECONDS = 20.0
"""Time during which the cluster may reject pods: admission webhooks fail and recover."""
_READ_LINES = 400
"""Enough for the tracebacks of vLLM's engine and of its API server."""
_SHOWN_LINES = 40


def wait_until_available(
    name: str, revision_id: str, namespace: str, timeout_seconds: float, client: ApiClient
) -> None:
    """Wait until all replicas of a revision are available.

    :param name: name of the revision's Deployment.
    :raises AirsmithError: with the reason of a pod that cannot start, or has not started before the timeout.
    """
    started = accepted = time.monotonic()
    logged = ""
    while not is_complete(found := find_deployment(name, namespace, client)):
        rejection = pod_creation_error(found)
        accepted = accepted if rejection else time.monotonic()
        if rejection and time.monotonic() - accepted > POD_CREATION_GRACE_SECONDS:
            _check_pod_creation(rejection)
        pods = [_with_waiting_init_containers(pod) for pod in pods_of(revision_id, namespace, client)]
        for pod in pods:
            _check_pod(pod, client)
        progress = describe_progress(pods, rejection)
        if progress != logged:
            log.info("Waiting for %s: %s", name, progress)
            logged = progress
        if time.monotonic() - started > timeout_seconds:
            raise _timeout_error(f"{name} is not available after {timeout_seconds:.0f} s: {progress}.", pods, client)
        time.sleep(POLL_SECONDS)


def _check_pod_creation(rejection: str) -> None:
    """Fail if the cluster rejects the pods for any reason but an exceeded quota, which may become free.

    :raises AirsmithError: `access_denied` with the cluster's reason.
    """
    if "exceeded quota" not in rejection:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The cluster rejects the server's pods: {rejection}",
            "Check that kubernetes.service_account exists, and the admission policies of the namespace.",
        )


def _check_pod(pod: k8s.V1Pod, client: ApiClient) -> None:
    """Fail if a pod's image cannot be pulled or a container fails permanently.

    :raises AirsmithError: with the pod's reason; the end of the container's log is logged.
    """
    if waiting_reason(pod) is not None:
        raise failure_of("deploy", pod, _events(pod, client))
    status = failed_container(pod)
    if status is not None:
        output = _log_of(pod, status, client)
        tail = "\n".join(output.splitlines()[-_SHOWN_LINES:])
        log.error("Last log lines of container %s in pod %s:\n%s", status.name, pod.metadata.name, tail)
        raise server_failure(pod, status, output)


def _timeout_error(message: str, pods: Sequence[k8s.V1Pod], client: ApiClient) -> AirsmithError:
    waiting = [pod for pod in pods if unscheduled_reason(pod) is not None]
    if waiting:
        return failure_of("deploy", waiting[0], _events(waiting[0], client))
    kind = ErrorKind.INTERNAL if pods else ErrorKind.UNSCHEDULABLE
    return AirsmithError(kind, message, "Check `kubectl describe deployment,pod` and the server's log.")


def _with_waiting_init_containers(pod: k8s.V1Pod) -> k8s.V1Pod:
    """The pod with its waiting init containers among its containers, where the reasons of stage pods are read."""
    waiting = [status for status in pod.status.init_container_statuses or () if status.state and status.state.waiting]
    pod.status.container_statuses = [*waiting, *(pod.status.container_statuses or ())]
    return pod


def _events(pod: k8s.V1Pod, client: ApiClient) -> list[k8s.CoreV1Event]:
    selector = f"involvedObject.name={pod.metadata.name}"
    return list(CoreV1Api(client).list_namespaced_event(pod.metadata.namespace, field_selector=selector).items)


def _log_of(pod: k8s.V1Pod, status: k8s.V1ContainerStatus, client: ApiClient) -> str:
    """The end of the log of a container's last terminated instance."""
    try:
        response = CoreV1Api(client).read_namespaced_pod_log(
            pod.metadata.name,
            pod.metadata.namespace,
            container=status.name,
            previous=not is_terminated(status),
            tail_lines=_READ_LINES,
            _preload_content=False,  # Otherwise the client returns the repr of the bytes.
        )
    except ApiException as error:
        return f"(log not available: {error.reason})"
    return str(response.data.decode(errors="replace"))
