"""Why a server in a cluster does not start, from its Deployment, its pods and its log."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kubernetes.client import models as k8s

from airsmith.cluster.pod_failures import unscheduled_reason
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.retries import RETRIES, Retry
from airsmith.serving.cluster.server_pod import SERVER

MAX_RESTARTS = 2
"""Restarts of a container whose failure may be transient."""

_USAGE_EXIT = 2
"""Exit code of argparse for invalid arguments."""
_SIGKILL_EXIT = 128 + 9
_INVALID_ARGUMENT = re.compile(r"(?:\.py: error: |Value error, )(?P<text>.+?)(?: \[type=.*)?$", re.MULTILINE)
"""Messages of argparse and of vLLM's configuration for an invalid argument."""
_EXCEPTION = re.compile(r"(?:^|\s)(?P<text>[\w.]*(?:Error|Exception): .+)$", re.MULTILINE)
_CONSEQUENCE = "root cause"
"""Part of the messages of vLLM's processes that exit because another one has failed and logged its own error."""


def is_complete(deployment: k8s.V1Deployment | None) -> bool:
    """Whether all replicas of a Deployment's current generation are available."""
    if deployment is None or (deployment.status.observed_generation or 0) < deployment.metadata.generation:
        return False
    return bool((deployment.status.available_replicas or 0) >= max(1, deployment.spec.replicas))


def pod_creation_error(deployment: k8s.V1Deployment | None) -> str | None:
    """The cluster's message if it rejects a Deployment's pods, or None."""
    for condition in (deployment.status.conditions if deployment is not None else None) or ():
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return str(condition.message)
    return None


def failed_container(pod: k8s.V1Pod) -> k8s.V1ContainerStatus | None:
    """The container of a pod that fails permanently, or None."""
    for status in _statuses(pod):
        terminated = _last_termination(status)
        if terminated is None or terminated.exit_code == 0:
            continue
        kind = server_failure(pod, status).kind
        if RETRIES[kind] is Retry.NEVER or status.restart_count >= MAX_RESTARTS:
            return status
    return None


def server_failure(pod: k8s.V1Pod, status: k8s.V1ContainerStatus, log: str = "") -> AirsmithError:
    """The error of a terminated container: its own error line, or one from its log or its exit code.

    :param log: the end of its log, if it was read.
    """
    terminated = _last_termination(status)
    assert terminated is not None, f"{status.name} is running"
    reported = AirsmithError.from_json_line((terminated.message or "").strip().rpartition("\n")[2])
    if reported is not None:
        return reported
    container = f"Container {status.name} of pod {pod.metadata.name}"
    if terminated.reason == "OOMKilled":
        return AirsmithError(
            ErrorKind.OUT_OF_MEMORY,
            f"{container} exceeded its memory limit of {_memory_limit(pod, status.name)}.",
            "Lower max-model-len in serve.engine_args, or serve a smaller model.",
        )
    output = log or terminated.message or ""
    invalid = _last(_INVALID_ARGUMENT, output)
    if status.name == SERVER and (invalid or terminated.exit_code == _USAGE_EXIT):
        return AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"vLLM rejects its arguments: {invalid or 'see its log'}",
            "Correct serve.engine_args; the last lines of vLLM's log are above.",
        )
    reason = _last(_EXCEPTION, output) or "no reason was reported."
    return AirsmithError(
        ErrorKind.KILLED if terminated.exit_code == _SIGKILL_EXIT else ErrorKind.INTERNAL,
        f"{container} exited with code {terminated.exit_code}: {reason}",
        "See the last lines of its log above.",
    )


def describe_progress(pods: Sequence[k8s.V1Pod], rejection: str | None) -> str:
    """A short description of the pods' states.

    :param rejection: the cluster's message if it rejects further pods.
    """
    return ", ".join([*map(_pod_progress, pods), *([rejection] if rejection else [])]) or "no pod yet"


def is_terminated(status: k8s.V1ContainerStatus) -> bool:
    """Whether a container is terminated and not restarted yet."""
    return status.state is not None and status.state.terminated is not None


def _last_termination(status: k8s.V1ContainerStatus) -> k8s.V1ContainerStateTerminated | None:
    """The last termination of a container, restarted since or not."""
    for state in (status.state, status.last_state):
        if state is not None and state.terminated is not None:
            return state.terminated
    return None


def _last(pattern: re.Pattern[str], text: str) -> str:
    """The last match in a text, or an empty string."""
    found = [match["text"] for match in pattern.finditer(text) if _CONSEQUENCE not in match["text"]]
    return found[-1] if found else ""


def _memory_limit(pod: k8s.V1Pod, container: str) -> str:
    containers = [*(pod.spec.init_containers or ()), *pod.spec.containers]
    limits = next(known.resources.limits for known in containers if known.name == container) or {}
    return str(limits.get("memory", "the node"))


def _pod_progress(pod: k8s.V1Pod) -> str:
    reason = unscheduled_reason(pod)
    if reason is not None:
        return f"unschedulable ({reason})"
    # A ready init container that keeps running is a sidecar.
    sidecars = [status for status in pod.status.init_container_statuses or () if status.ready]
    running = [status for status in _statuses(pod) if status not in sidecars and status.state and status.state.running]
    if not running:
        return str(pod.status.phase).lower()
    return f"{running[-1].name} {'ready' if running[-1].ready else 'running'}"


def _statuses(pod: k8s.V1Pod) -> list[k8s.V1ContainerStatus]:
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
