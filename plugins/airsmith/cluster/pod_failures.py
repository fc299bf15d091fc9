"""Why a pod has no output: its container's exit, its conditions and its events, mapped to one error kind."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.errors import AirsmithError, ErrorKind

IMAGE_NAME_REASONS = ("InvalidImageName", "ErrImageNeverPull")
IMAGE_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
"""The kubelet's reasons for a waiting container."""

_TRANSIENT = "failed to sync"
"""Part of the kubelet's message when it has not read a Secret yet and will retry."""
_DISRUPTIONS = {
    "PreemptionByScheduler": (ErrorKind.PREEMPTED, "it was preempted by pods of a higher priority"),
    "EvictionByEvictionAPI": (ErrorKind.EVICTED, "its node was drained"),
    "DeletionByTaintManager": (ErrorKind.NODE_LOST, "its node was lost or tainted"),
    "DeletionByPodGC": (ErrorKind.NODE_LOST, "its node no longer exists"),
    "TerminationByKubelet": (ErrorKind.EVICTED, "its node ran out of memory or disk, or was shut down"),
}
"""Reasons of the condition `DisruptionTarget` (https://kubernetes.io/docs/concepts/workloads/pods/disruptions)."""

_PREEMPTING_EVENTS = (("Stopped", "pod-kueue-controller"), ("Preempted", "default-scheduler"))
"""Reason and reporting component of the events of a preempted pod, which is often deleted before it can be read."""

_HINTS = {
    ErrorKind.INVALID_IMAGE_NAME: "Correct kubernetes.images in the settings; `make images` writes it.",
    ErrorKind.IMAGE_PULL_FAILED: (
        "Check that the image exists and that kubernetes.image_pull_secrets grants access to its registry."
    ),
    ErrorKind.ACCESS_DENIED: "Check that the Secrets named by the settings and the recipe exist in the namespace.",
}
_SIGKILL_EXIT = 128 + 9
_RESUMES = "Run it again: training resumes from its newest checkpoint."


def has_succeeded(pod: k8s.V1Pod) -> bool:
    """Whether the stage in the pod has exited with code 0."""
    ended = _ended(pod)
    return pod.status.phase == "Succeeded" or (ended is not None and ended.exit_code == 0)


def has_finished(pod: k8s.V1Pod) -> bool:
    """Whether the stage in the pod has exited."""
    return pod.status.phase in ("Succeeded", "Failed") or _ended(pod) is not None


def failure_of(stage: str, pod: k8s.V1Pod, events: Sequence[k8s.CoreV1Event] = ()) -> AirsmithError:
    """The error of a pod that has no output.

    :param events: the pod's events; they matter only if it never started.
    """
    return (
        _evicted_by_queue(stage, pod)
        or _reported_by_stage(pod)
        or _disrupted(stage, pod)
        or _out_of_memory(stage, pod)
        or _exited(stage, pod)
        or _never_started(stage, pod, events)
        or _unresponsive_node(stage, pod)
    )


def disruption_of(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    """Why the cluster or a queue is terminating a pod that may still be running; None if neither is."""
    return _evicted_by_queue(stage, pod) or _disrupted(stage, pod)


def pod_missing(stage: str, name: str, events: Sequence[k8s.CoreV1Event] = ()) -> AirsmithError:
    """The error of a pod that no longer exists.

    :param events: the events of that pod.
    """
    for event in events:
        if (event.reason, event.reporting_component or event.source.component) in _PREEMPTING_EVENTS:
            return _eviction(stage, event.message)
    return AirsmithError(
        ErrorKind.POD_MISSING,
        f"Pod {name} of stage {stage} no longer exists: a user or the cluster deleted it.",
        _RESUMES,
    )


def creation_error(stage: str, refusal: ApiException) -> AirsmithError:
    """The error of a pod that the API server rejects, with the server's message."""
    message = str(refusal.body or refusal.reason)
    if refusal.status == HTTPStatus.FORBIDDEN and "exceeded quota" in message:
        return AirsmithError(
            ErrorKind.UNSCHEDULABLE,
            f"The pod of stage {stage} exceeds the namespace's quota: {message}",
            "Wait until other pods finish, or raise the quota.",
        )
    if refusal.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"Airflow may not create the pod of stage {stage}: {message}",
            "Check that kubernetes.namespace exists and that Airflow's service account may create pods in it.",
        )
    if refusal.status == HTTPStatus.TOO_MANY_REQUESTS or refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return AirsmithError(
            ErrorKind.UNSCHEDULABLE,
            f"The cluster cannot create the pod of stage {stage} at the moment: {message}",
            "If the message names a webhook, check that its server (Kueue, a policy engine) is running.",
        )
    kind = ErrorKind.BAD_RECIPE if refusal.status == HTTPStatus.UNPROCESSABLE_ENTITY else ErrorKind.INTERNAL
    return AirsmithError(
        kind, f"The cluster rejects the pod of stage {stage}: {message}", "Correct the recipe or the settings."
    )


def waiting_reason(pod: k8s.V1Pod) -> tuple[ErrorKind, str] | None:
    """Why a pod's container cannot start, if the kubelet reports a reason that waiting may not fix."""
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting if status.state else None
        if waiting is None:
            continue
        message = f"{waiting.reason}: {waiting.message or status.image}"
        if waiting.reason in IMAGE_NAME_REASONS:
            return ErrorKind.INVALID_IMAGE_NAME, message
        if waiting.reason in IMAGE_PULL_REASONS:
            return ErrorKind.IMAGE_PULL_FAILED, message
        if waiting.reason in CONFIG_REASONS and _TRANSIENT not in message:
            return ErrorKind.ACCESS_DENIED, message
    return None


def unscheduled_reason(pod: k8s.V1Pod) -> str | None:
    """The scheduler's reason for not placing the pod."""
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.message or condition.reason)
    return None


def latest_warning(events: Sequence[k8s.CoreV1Event]) -> str | None:
    """The newest warning among a pod's events: the only report of a volume or sandbox that cannot be created."""
    warnings = [event for event in events if event.type == "Warning"]
    if not warnings:
        return None
    newest = max(
        warnings, key=lambda event: event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    )
    return f"{newest.reason}: {newest.message}"


def _ended(pod: k8s.V1Pod) -> k8s.V1ContainerStateTerminated | None:
    for status in pod.status.container_statuses or ():
        if status.state and status.state.terminated:
            return status.state.terminated
    return None


def _reported_by_stage(pod: k8s.V1Pod) -> AirsmithError | None:
    """The error that the stage reported as a JSON line in its termination message."""
    ended = _ended(pod)
    if ended is None or not ended.message:
        return None
    return AirsmithError.from_json_line(ended.message.strip().splitlines()[-1])


def _evicted_by_queue(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    """Kueue's reason for terminating the pod. It comes first because the stage only reports an interruption."""
    for condition in pod.status.conditions or ():
        if condition.type == "TerminationTarget" and condition.status == "True":
            return _eviction(stage, condition.message or condition.reason)
    return None


def _eviction(stage: str, message: str) -> AirsmithError:
    """The error of a pod that lost its place. A Workload that a user deactivated is evicted, not preempted."""
    kind = ErrorKind.EVICTED if "deactivated" in message else ErrorKind.PREEMPTED
    return AirsmithError(kind, f"The pod of stage {stage} was terminated: {message.rstrip('.')}.", _RESUMES)


def _disrupted(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    for condition in pod.status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            kind, why = _DISRUPTIONS.get(condition.reason, (ErrorKind.EVICTED, condition.message or condition.reason))
            return AirsmithError(kind, f"The pod of stage {stage} was terminated: {why}.", _RESUMES)
    if pod.status.reason in ("Evicted", "Preempting"):
        message = (pod.status.message or "its node ran out of a resource").rstrip(".")
        return AirsmithError(ErrorKind.EVICTED, f"The pod of stage {stage} was evicted: {message}.", _RESUMES)
    if pod.status.reason in ("NodeLost", "NodeShutdown", "Terminated"):
        return AirsmithError(ErrorKind.NODE_LOST, f"The node of stage {stage} was lost or shut down.", _RESUMES)
    return None


def _out_of_memory(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    ended = _ended(pod)
    if ended is None or ended.reason != "OOMKilled":
        return None
    limits = pod.spec.containers[0].resources.limits or {}
    return AirsmithError(
        ErrorKind.OUT_OF_MEMORY,
        f"The pod of stage {stage} used more memory than its limit of {limits.get('memory', 'its node')}.",
        "Raise backend.resources.memory, or lower training.max_per_device_train_batch_size or dataset.max_length.",
    )


def _exited(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    ended = _ended(pod)
    if ended is None:
        return None
    if ended.exit_code == _SIGKILL_EXIT:
        return AirsmithError(ErrorKind.KILLED, f"The process of stage {stage} was killed (SIGKILL).", _RESUMES)
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"Stage {stage} exited with code {ended.exit_code} ({ended.reason}) and reported no reason.",
        "See the last lines of its log.",
    )


def _never_started(stage: str, pod: k8s.V1Pod, events: Sequence[k8s.CoreV1Event]) -> AirsmithError | None:
    if pod.status.phase != "Pending":
        return None
    waiting = waiting_reason(pod)
    if waiting is not None:
        kind, message = waiting
        return AirsmithError(kind, f"The container of stage {stage} cannot start: {message.rstrip('.')}.", _HINTS[kind])
    unscheduled = unscheduled_reason(pod)
    if unscheduled is not None:
        return AirsmithError(
            ErrorKind.UNSCHEDULABLE,
            f"The pod of stage {stage} was not scheduled in time: {unscheduled.rstrip('.')}.",
            "Lower backend.resources, add nodes, or raise the backend's startup_timeout_seconds in the settings.",
        )
    warning = latest_warning(events)
    reason = warning.rstrip(".") if warning else "no reason was reported"
    return AirsmithError(
        ErrorKind.UNSCHEDULABLE,
        f"The pod of stage {stage} did not start in time: {reason}.",
        "Check the node and the registry, or raise the backend's startup_timeout_seconds in the settings.",
    )


def _unresponsive_node(stage: str, pod: k8s.V1Pod) -> AirsmithError:
    return AirsmithError(
        ErrorKind.NODE_LOST,
        f"The pod of stage {stage} is {pod.status.phase}, but its node {pod.spec.node_name} no longer reports.",
        _RESUMES,
    )
