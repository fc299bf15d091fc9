"""Waiting for a server in a cluster, and the reason of the pod that does not come up."""

from __future__ import annotations

import logging
import time

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.retries import RETRIES, Retry
from airsmith.runtimes.pod_failures import failure_of, unscheduled_reason, waiting_reason
from airsmith.serving.cluster_access import find_deployment, pods_of
from airsmith.serving.server_pod import SERVER

log = logging.getLogger("airsmith")

POLL_SECONDS = 1.0
RESTARTS_TOLERATED = 2
"""Of a container whose end may have been bad luck."""
REFUSED_SECONDS = 20.0
"""Longest time that a cluster may let a server have no pod; webhooks stumble and recover."""
_LOG_LINES = 40
_USAGE_EXIT = 2
"""How a Python program ends whose command line is wrong."""
_SIGKILL_EXIT = 128 + 9


def wait_until_available(name: str, deployment: str, namespace: str, timeout_seconds: float, client: ApiClient) -> None:
    """Wait until as many servers answer as are wanted.

    :param name: of the Deployment.
    :param deployment: the start of a server that it runs.
    :raises AirsmithError: with the reason of a pod that will not come up, or has not come up in time.
    """
    deadline = time.monotonic() + timeout_seconds
    let_in = time.monotonic()
    said = ""
    while not is_complete(found := find_deployment(name, namespace, client)):
        let_in = let_in if _refusal(found) else time.monotonic()
        if time.monotonic() - let_in > REFUSED_SECONDS:
            _raise_if_refused(found)
        pods = [_with_waiting_init_containers(pod) for pod in pods_of(deployment, namespace, client)]
        for pod in pods:
            _raise_if_hopeless(pod, client)
        now = _progress(pods, _refusal(found))
        if now != said:
            log.info("Waiting for %s: %s", name, now)
            said = now
        if time.monotonic() > deadline:
            raise _too_late(f"{name} does not answer after {timeout_seconds:.0f} s: {now}.", pods, client)
        time.sleep(POLL_SECONDS)


def is_complete(deployment: k8s.V1Deployment | None) -> bool:
    """Whether a Deployment runs as it was last described, and every server of it answers."""
    if deployment is None or (deployment.status.observed_generation or 0) < deployment.metadata.generation:
        return False
    return bool((deployment.status.available_replicas or 0) >= max(1, deployment.spec.replicas))


def _refusal(deployment: k8s.V1Deployment | None) -> str | None:
    """Why the cluster makes no pod, in the words of what refused it."""
    for condition in (deployment.status.conditions if deployment is not None else None) or ():
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return str(condition.message)
    return None


def _raise_if_refused(deployment: k8s.V1Deployment | None) -> None:
    """Give up where no pod is let in; a quota that is used up is waited for.

    :raises AirsmithError: `access_denied`, in the words of what refused it.
    """
    said = _refusal(deployment)
    if said is not None and "exceeded quota" not in said:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The cluster lets the server have no pod: {said}",
            "See that kubernetes.service_account exists and what the namespace admits.",
        )


def _raise_if_hopeless(pod: k8s.V1Pod, client: ApiClient) -> None:
    """Give up on a pod whose image cannot be pulled, or whose container would only end again.

    :raises AirsmithError: with the pod's own reason; the end of its log is in ours.
    """
    if waiting_reason(pod) is not None:
        raise failure_of("deploy", pod, _events(pod, client))
    for status in _statuses(pod):
        ended = _last_end(status)
        if ended is None or ended.exit_code == 0:
            continue
        error = _error_of(pod, status, ended)
        if RETRIES[error.kind] is Retry.NEVER or status.restart_count >= RESTARTS_TOLERATED:
            log.error("The last lines of %s in %s:\n%s", status.name, pod.metadata.name, _log_tail(pod, status, client))
            raise error


def _last_end(status: k8s.V1ContainerStatus) -> k8s.V1ContainerStateTerminated | None:
    """How a container ended: it is not restarted yet, or was before."""
    for state in (status.state, status.last_state):
        if state is not None and state.terminated is not None:
            return state.terminated
    return None


def _error_of(pod: k8s.V1Pod, status: k8s.V1ContainerStatus, ended: k8s.V1ContainerStateTerminated) -> AirsmithError:
    """What the end of a server's container means: its own word, else what its exit code says."""
    told = AirsmithError.from_json_line((ended.message or "").strip().rpartition("\n")[2])
    if told is not None:
        return told
    where = f"Container {status.name} of {pod.metadata.name}"
    if ended.reason == "OOMKilled":
        limits = next(c.resources.limits for c in _containers(pod) if c.name == status.name) or {}
        return AirsmithError(
            ErrorKind.OUT_OF_MEMORY,
            f"{where} used more memory than its limit of {limits.get('memory', 'its node')}.",
            "Lower max-model-len in serve.engine_args, or serve a smaller model.",
        )
    if ended.exit_code == _USAGE_EXIT and status.name == SERVER:
        return AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"vLLM refuses its arguments: {_last_line(ended.message)}",
            "Correct serve.engine_args; the end of its log is above.",
        )
    ends = f"ended {status.restart_count + 1} times, last" if status.restart_count else "ended"
    return AirsmithError(
        ErrorKind.KILLED if ended.exit_code == _SIGKILL_EXIT else ErrorKind.INTERNAL,
        f"{where} {ends} with exit code {ended.exit_code}: {_last_line(ended.message)}",
        "See the last lines of its log above.",
    )


def _too_late(message: str, pods: list[k8s.V1Pod], client: ApiClient) -> AirsmithError:
    waiting = [pod for pod in pods if unscheduled_reason(pod) is not None]
    if waiting:
        return failure_of("deploy", waiting[0], _events(waiting[0], client))
    kind = ErrorKind.INTERNAL if pods else ErrorKind.UNSCHEDULABLE
    return AirsmithError(kind, message, "See `kubectl describe deployment,pod` and the server's log.")


def _progress(pods: list[k8s.V1Pod], refusal: str | None) -> str:
    """Where the pods are on their way, in words."""
    return ", ".join(_pod_progress(pod) for pod in pods) or refusal or "no pod yet"


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


def _containers(pod: k8s.V1Pod) -> list[k8s.V1Container]:
    return [*(pod.spec.init_containers or ()), *pod.spec.containers]


def _last_line(text: str | None) -> str:
    """The line in which a Python program says why it ends."""
    return (text or "").strip().rpartition("\n")[2] or "it did not say why."


def _events(pod: k8s.V1Pod, client: ApiClient) -> list[k8s.CoreV1Event]:
    about = f"involvedObject.name={pod.metadata.name}"
    return list(CoreV1Api(client).list_namespaced_event(pod.metadata.namespace, field_selector=about).items)


def _log_tail(pod: k8s.V1Pod, status: k8s.V1ContainerStatus, client: ApiClient) -> str:
    """The end of the log of the container's life that has ended."""
    is_restarted = status.state is None or status.state.terminated is None
    try:
        return str(
            CoreV1Api(client).read_namespaced_pod_log(
                pod.metadata.name,
                pod.metadata.namespace,
                container=status.name,
                previous=is_restarted,
                tail_lines=_LOG_LINES,
            )
        )
    except ApiException as refusal:
        return f"(not to be had: {refusal.reason})"
