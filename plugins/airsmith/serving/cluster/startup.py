"""Waiting for a server in a cluster, and the reason of the pod that does not come up."""

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
    ended_for_good,
    is_between_lives,
    is_complete,
    progress,
    refusal_of,
    server_failure,
)

log = logging.getLogger("airsmith")

POLL_SECONDS = 1.0
REFUSED_SECONDS = 20.0
"""Longest time that a cluster may let a server have no pod; webhooks stumble and recover."""
_READ_LINES = 400
"""As many as hold the tracebacks of vLLM's engine and of its front."""
_SHOWN_LINES = 40


def wait_until_available(name: str, deployment: str, namespace: str, timeout_seconds: float, client: ApiClient) -> None:
    """Wait until as many servers answer as are wanted.

    :param name: of the Deployment.
    :param deployment: the start of a server that it runs.
    :raises AirsmithError: with the reason of a pod that will not come up, or has not come up in time.
    """
    began = let_in = time.monotonic()
    said = ""
    while not is_complete(found := find_deployment(name, namespace, client)):
        refusal = refusal_of(found)
        let_in = let_in if refusal else time.monotonic()
        if refusal and time.monotonic() - let_in > REFUSED_SECONDS:
            _raise_if_never_let_in(refusal)
        pods = [_with_waiting_init_containers(pod) for pod in pods_of(deployment, namespace, client)]
        for pod in pods:
            _raise_if_hopeless(pod, client)
        now = progress(pods, refusal)
        if now != said:
            log.info("Waiting for %s: %s", name, now)
            said = now
        if time.monotonic() - began > timeout_seconds:
            raise _too_late(f"{name} does not answer after {timeout_seconds:.0f} s: {now}.", pods, client)
        time.sleep(POLL_SECONDS)


def _raise_if_never_let_in(refusal: str) -> None:
    """Give up where no pod is let in; a quota that is used up is waited for.

    :raises AirsmithError: `access_denied`, in the words of what refused it.
    """
    if "exceeded quota" not in refusal:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The cluster lets the server have no pod: {refusal}",
            "See that kubernetes.service_account exists and what the namespace admits.",
        )


def _raise_if_hopeless(pod: k8s.V1Pod, client: ApiClient) -> None:
    """Give up on a pod whose image cannot be pulled, or whose container would only end again.

    :raises AirsmithError: with the pod's own reason; the end of its log is in ours.
    """
    if waiting_reason(pod) is not None:
        raise failure_of("deploy", pod, _events(pod, client))
    status = ended_for_good(pod)
    if status is not None:
        said = _log_of(pod, status, client)
        shown = "\n".join(said.splitlines()[-_SHOWN_LINES:])
        log.error("The end of the log of %s in %s:\n%s", status.name, pod.metadata.name, shown)
        raise server_failure(pod, status, said)


def _too_late(message: str, pods: Sequence[k8s.V1Pod], client: ApiClient) -> AirsmithError:
    waiting = [pod for pod in pods if unscheduled_reason(pod) is not None]
    if waiting:
        return failure_of("deploy", waiting[0], _events(waiting[0], client))
    kind = ErrorKind.INTERNAL if pods else ErrorKind.UNSCHEDULABLE
    return AirsmithError(kind, message, "See `kubectl describe deployment,pod` and the server's log.")


def _with_waiting_init_containers(pod: k8s.V1Pod) -> k8s.V1Pod:
    """The pod as a stage's would be, whose one container waits for its image or its Secret itself."""
    waiting = [status for status in pod.status.init_container_statuses or () if status.state and status.state.waiting]
    pod.status.container_statuses = [*waiting, *(pod.status.container_statuses or ())]
    return pod


def _events(pod: k8s.V1Pod, client: ApiClient) -> list[k8s.CoreV1Event]:
    about = f"involvedObject.name={pod.metadata.name}"
    return list(CoreV1Api(client).list_namespaced_event(pod.metadata.namespace, field_selector=about).items)


def _log_of(pod: k8s.V1Pod, status: k8s.V1ContainerStatus, client: ApiClient) -> str:
    """The end of the log of a container's life that has ended."""
    try:
        answer = CoreV1Api(client).read_namespaced_pod_log(
            pod.metadata.name,
            pod.metadata.namespace,
            container=status.name,
            previous=not is_between_lives(status),
            tail_lines=_READ_LINES,
            _preload_content=False,  # Else the client returns the text of a bytes literal.
        )
    except ApiException as refusal:
        return f"(not to be had: {refusal.reason})"
    return str(answer.data.decode(errors="replace"))
