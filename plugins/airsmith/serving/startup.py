"""Waiting for a server in a cluster, and the reason of the pod that does not come up."""

from __future__ import annotations

import logging
import time

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.runtimes.pod_failures import failure_of, unscheduled_reason, waiting_reason
from airsmith.serving.cluster_access import find_deployment, pods_of

log = logging.getLogger("airsmith")

POLL_SECONDS = 1.0
RESTARTS_TOLERATED = 2
_LOG_LINES = 30


def wait_until_available(name: str, deployment: str, namespace: str, timeout_seconds: float, client: ApiClient) -> None:
    """Wait until as many servers answer as are wanted.

    :param name: of the Deployment.
    :param deployment: the start of a server that it runs.
    :raises AirsmithError: with the reason of a pod that will not come up, or has not come up in time.
    """
    deadline = time.monotonic() + timeout_seconds
    said = ""
    while not is_complete(find_deployment(name, namespace, client)):
        pods = [_with_waiting_init_containers(pod) for pod in pods_of(deployment, namespace, client)]
        for pod in pods:
            _raise_if_hopeless(pod, client)
        now = _progress(pods)
        if now != said:
            log.info("Waiting for %s: %s", name, now)
            said = now
        if time.monotonic() > deadline:
            raise _too_late(name, namespace, timeout_seconds, pods, client)
        time.sleep(POLL_SECONDS)


def is_complete(deployment: k8s.V1Deployment | None) -> bool:
    """Whether a Deployment runs as it was last described, and every server of it answers."""
    if deployment is None or (deployment.status.observed_generation or 0) < deployment.metadata.generation:
        return False
    return bool((deployment.status.available_replicas or 0) >= max(1, deployment.spec.replicas))


def _raise_if_hopeless(pod: k8s.V1Pod, client: ApiClient) -> None:
    """Give up on a pod whose image cannot be pulled, or whose container ends again and again.

    :raises AirsmithError: with the pod's own reason; the end of its log is in ours.
    """
    if waiting_reason(pod) is not None:
        raise failure_of("deploy", pod, _events(pod, client))
    for status in _statuses(pod):
        ended = status.last_state.terminated if status.last_state else None
        if ended is None or status.restart_count < RESTARTS_TOLERATED:
            continue
        log.error(
            "The last lines of %s in %s:\n%s", status.name, pod.metadata.name, _log_tail(pod, status.name, client)
        )
        told = AirsmithError.from_json_line((ended.message or "").strip().rpartition("\n")[2])
        raise told or AirsmithError(
            ErrorKind.OUT_OF_MEMORY if ended.reason == "OOMKilled" else ErrorKind.INTERNAL,
            f"Container {status.name} of {pod.metadata.name} ended {status.restart_count} times, "
            f"last with exit code {ended.exit_code} ({ended.reason}).",
            "See the last lines of its log above.",
        )


def _too_late(
    name: str, namespace: str, timeout_seconds: float, pods: list[k8s.V1Pod], client: ApiClient
) -> AirsmithError:
    waiting = [pod for pod in pods if unscheduled_reason(pod) is not None]
    if waiting:
        return failure_of("deploy", waiting[0], _events(waiting[0], client))
    return AirsmithError(
        ErrorKind.INTERNAL if pods else ErrorKind.UNSCHEDULABLE,
        f"{name} does not answer after {timeout_seconds:.0f} s: {_progress(pods)}.",
        f"See `kubectl describe deployment,pod -n {namespace}` and the log of {name}.",
    )


def _progress(pods: list[k8s.V1Pod]) -> str:
    """Where the pods are on their way, in words."""
    return ", ".join(_pod_progress(pod) for pod in pods) or "no pod yet"


def _pod_progress(pod: k8s.V1Pod) -> str:
    reason = unscheduled_reason(pod)
    if reason is not None:
        return f"unschedulable ({reason})"
    running = [status for status in _statuses(pod) if status.state and status.state.running]
    if not running:
        return str(pod.status.phase).lower()
    return f"{running[-1].name} {'answers' if running[-1].ready else 'at work'}"


def _with_waiting_init_containers(pod: k8s.V1Pod) -> k8s.V1Pod:
    """The pod as a stage's would be, whose one container waits for its image or its Secret itself."""
    waiting = [status for status in pod.status.init_container_statuses or () if status.state and status.state.waiting]
    pod.status.container_statuses = [*waiting, *(pod.status.container_statuses or ())]
    return pod


def _statuses(pod: k8s.V1Pod) -> list[k8s.V1ContainerStatus]:
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]


def _events(pod: k8s.V1Pod, client: ApiClient) -> list[k8s.CoreV1Event]:
    about = f"involvedObject.name={pod.metadata.name}"
    return list(CoreV1Api(client).list_namespaced_event(pod.metadata.namespace, field_selector=about).items)


def _log_tail(pod: k8s.V1Pod, container: str, client: ApiClient) -> str:
    try:
        return str(
            CoreV1Api(client).read_namespaced_pod_log(
                pod.metadata.name, pod.metadata.namespace, container=container, previous=True, tail_lines=_LOG_LINES
            )
        )
    except ApiException as refusal:
        return f"(not to be had: {refusal.reason})"
