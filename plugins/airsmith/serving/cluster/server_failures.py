"""Why a server in a cluster does not come up: its Deployment, its pods and what it said, as one error or in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kubernetes.client import models as k8s

from airsmith.cluster.pod_failures import unscheduled_reason
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.retries import RETRIES, Retry
from airsmith.serving.cluster.server_pod import SERVER

RESTARTS_TOLERATED = 2
"""Of a container whose end may have been bad luck."""

_USAGE_EXIT = 2
"""How a Python program ends whose command line is wrong."""
_SIGKILL_EXIT = 128 + 9
_REFUSED_ARGUMENT = re.compile(r"(?:\.py: error: |Value error, )(?P<said>.+?)(?: \[type=.*)?$", re.MULTILINE)
"""What argparse, and vLLM's own check of its configuration, say of an argument."""
_EXCEPTION = re.compile(r"(?:^|\s)(?P<said>[\w.]*(?:Error|Exception): .+)$", re.MULTILINE)
_NOT_THE_CAUSE = "root cause"
"""What vLLM's processes say when another one of them has ended, after that one's own word."""


def is_complete(deployment: k8s.V1Deployment | None) -> bool:
    """Whether a Deployment runs as it was last described, and every server of it answers."""
    if deployment is None or (deployment.status.observed_generation or 0) < deployment.metadata.generation:
        return False
    return bool((deployment.status.available_replicas or 0) >= max(1, deployment.spec.replicas))


def refusal_of(deployment: k8s.V1Deployment | None) -> str | None:
    """Why the cluster makes no pod, in the words of what refused it."""
    for condition in (deployment.status.conditions if deployment is not None else None) or ():
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return str(condition.message)
    return None


def ended_for_good(pod: k8s.V1Pod) -> k8s.V1ContainerStatus | None:
    """The container of a pod that would only end again."""
    for status in _statuses(pod):
        ended = _last_end(status)
        if ended is None or ended.exit_code == 0:
            continue
        kind = server_failure(pod, status).kind
        if RETRIES[kind] is Retry.NEVER or status.restart_count >= RESTARTS_TOLERATED:
            return status
    return None


def server_failure(pod: k8s.V1Pod, status: k8s.V1ContainerStatus, log: str = "") -> AirsmithError:
    """What the end of a server's container means: its own word, else what its log or its exit code says.

    :param log: the end of what it said, where that was read.
    """
    ended = _last_end(status)
    assert ended is not None, f"{status.name} is at work"
    told = AirsmithError.from_json_line((ended.message or "").strip().rpartition("\n")[2])
    if told is not None:
        return told
    where = f"Container {status.name} of {pod.metadata.name}"
    if ended.reason == "OOMKilled":
        return AirsmithError(
            ErrorKind.OUT_OF_MEMORY,
            f"{where} used more memory than its limit of {_memory_limit(pod, status.name)}.",
            "Lower max-model-len in serve.engine_args, or serve a smaller model.",
        )
    said = log or ended.message or ""
    refused = _last(_REFUSED_ARGUMENT, said)
    if status.name == SERVER and (refused or ended.exit_code == _USAGE_EXIT):
        return AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"vLLM refuses its arguments: {refused or 'see its log'}",
            "Correct serve.engine_args; the end of vLLM's log is above.",
        )
    return AirsmithError(
        ErrorKind.KILLED if ended.exit_code == _SIGKILL_EXIT else ErrorKind.INTERNAL,
        f"{where} ended with exit code {ended.exit_code}: {_last(_EXCEPTION, said) or 'it did not say why.'}",
        "See the end of its log above.",
    )


def progress(pods: Sequence[k8s.V1Pod], refusal: str | None) -> str:
    """Where the pods are on their way, in words.

    :param refusal: why there is none, or no more.
    """
    return ", ".join([*map(_pod_progress, pods), *([refusal] if refusal else [])]) or "no pod yet"


def is_between_lives(status: k8s.V1ContainerStatus) -> bool:
    """Whether the life of a container that has ended is still its newest."""
    return status.state is not None and status.state.terminated is not None


def _last_end(status: k8s.V1ContainerStatus) -> k8s.V1ContainerStateTerminated | None:
    """How a container ended: it is not restarted yet, or was before."""
    for state in (status.state, status.last_state):
        if state is not None and state.terminated is not None:
            return state.terminated
    return None


def _last(pattern: re.Pattern[str], text: str) -> str:
    """The last thing of this kind that a text says; empty where it says none."""
    found = [match["said"] for match in pattern.finditer(text) if _NOT_THE_CAUSE not in match["said"]]
    return found[-1] if found else ""


def _memory_limit(pod: k8s.V1Pod, container: str) -> str:
    containers = [*(pod.spec.init_containers or ()), *pod.spec.containers]
    limits = next(known.resources.limits for known in containers if known.name == container) or {}
    return str(limits.get("memory", "its node"))


def _pod_progress(pod: k8s.V1Pod) -> str:
    reason = unscheduled_reason(pod)
    if reason is not None:
        return f"unschedulable ({reason})"
    # An init container that is ready and goes on is one that stays beside the server.
    beside = [status for status in pod.status.init_container_statuses or () if status.ready]
    running = [status for status in _statuses(pod) if status not in beside and status.state and status.state.running]
    if not running:
        return str(pod.status.phase).lower()
    return f"{running[-1].name} {'answers' if running[-1].ready else 'at work'}"


def _statuses(pod: k8s.V1Pod) -> list[k8s.V1ContainerStatus]:
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
