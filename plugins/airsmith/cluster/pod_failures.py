"""Why a pod has no output: its container's end, its conditions and its events, as one error of the closed list."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.errors import AirsmithError, ErrorKind

IMAGE_NAME_REASONS = ("InvalidImageName", "ErrImageNeverPull")
IMAGE_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
"""Reasons of a container that waits, as the kubelet spells them."""

_PASSING = "failed to sync"
"""In the words of a kubelet that has not read a Secret yet, and tries again."""
_DISRUPTIONS = {
    "PreemptionByScheduler": (ErrorKind.PREEMPTED, "more important pods took its place"),
    "EvictionByEvictionAPI": (ErrorKind.EVICTED, "its node was drained"),
    "DeletionByTaintManager": (ErrorKind.NODE_LOST, "its node was lost or tainted"),
    "DeletionByPodGC": (ErrorKind.NODE_LOST, "its node is gone"),
    "TerminationByKubelet": (ErrorKind.EVICTED, "its node ran short of memory or disk, or was shut down"),
}
"""Reasons of the condition `DisruptionTarget` (https://kubernetes.io/docs/concepts/workloads/pods/disruptions)."""

_PREEMPTING_EVENTS = (("Stopped", "pod-kueue-controller"), ("Preempted", "default-scheduler"))
"""Reason and reporter of the events about a pod whose place was taken; the pod itself is often gone by then."""

_HINTS = {
    ErrorKind.INVALID_IMAGE_NAME: "Correct kubernetes.images in the settings; `make images` writes it.",
    ErrorKind.IMAGE_PULL_FAILED: (
        "See that the image exists and that kubernetes.image_pull_secrets opens its registry."
    ),
    ErrorKind.ACCESS_DENIED: "See that the Secrets that settings and recipe name exist in the namespace.",
}
_SIGKILL_EXIT = 128 + 9
_GOES_ON = "Run it again: a training goes on from its newest checkpoint."


def has_succeeded(pod: k8s.V1Pod) -> bool:
    """Whether the stage in the pod has ended well."""
    ended = _ended(pod)
    return pod.status.phase == "Succeeded" or (ended is not None and ended.exit_code == 0)


def has_ended(pod: k8s.V1Pod) -> bool:
    """Whether the stage in the pod works no more."""
    return pod.status.phase in ("Succeeded", "Failed") or _ended(pod) is not None


def failure_of(stage: str, pod: k8s.V1Pod, events: Sequence[k8s.CoreV1Event] = ()) -> AirsmithError:
    """The error that a pod without output stands for.

    :param events: of the pod; read where it never started.
    """
    return (
        _taken_back_by_queue(stage, pod)
        or _told_by_stage(pod)
        or _disrupted(stage, pod)
        or _out_of_memory(stage, pod)
        or _ended_otherwise(stage, pod)
        or _never_started(stage, pod, events)
        or _vanished_node(stage, pod)
    )


def ending_of(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    """Why the cluster or a queue is ending a pod that may still be at work; None where nobody is."""
    return _taken_back_by_queue(stage, pod) or _disrupted(stage, pod)


def missing(stage: str, name: str, events: Sequence[k8s.CoreV1Event] = ()) -> AirsmithError:
    """The error of a pod that is not there any more.

    :param events: of that very pod.
    """
    for event in events:
        if (event.reason, event.reporting_component or event.source.component) in _PREEMPTING_EVENTS:
            return _taken_back(stage, event.message)
    return AirsmithError(
        ErrorKind.POD_MISSING, f"Pod {name} of stage {stage} vanished: somebody or the cluster deleted it.", _GOES_ON
    )


def not_created(stage: str, refusal: ApiException) -> AirsmithError:
    """The error of a pod that the API server does not take, in its own words."""
    said = str(refusal.body or refusal.reason)
    if refusal.status == HTTPStatus.FORBIDDEN and "exceeded quota" in said:
        return AirsmithError(
            ErrorKind.UNSCHEDULABLE,
            f"The namespace's quota leaves no room for the pod of {stage}: {said}",
            "Wait for other pods to end, or raise the quota.",
        )
    if refusal.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The cluster lets Airflow create no pod for {stage}: {said}",
            "See that kubernetes.namespace exists and that Airflow's service account may create pods in it.",
        )
    if refusal.status == HTTPStatus.TOO_MANY_REQUESTS or refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return AirsmithError(
            ErrorKind.UNSCHEDULABLE,
            f"The cluster takes no pod for {stage} at the moment: {said}",
            "Where a webhook is named, see that what serves it (Kueue, a policy engine) is well.",
        )
    kind = ErrorKind.BAD_RECIPE if refusal.status == HTTPStatus.UNPROCESSABLE_ENTITY else ErrorKind.INTERNAL
    return AirsmithError(kind, f"The cluster refuses the pod of {stage}: {said}", "Correct the recipe or the settings.")


def waiting_reason(pod: k8s.V1Pod) -> tuple[ErrorKind, str] | None:
    """Why a pod's container cannot start, where the kubelet says that waiting may not help."""
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting if status.state else None
        if waiting is None:
            continue
        said = f"{waiting.reason}: {waiting.message or status.image}"
        if waiting.reason in IMAGE_NAME_REASONS:
            return ErrorKind.INVALID_IMAGE_NAME, said
        if waiting.reason in IMAGE_PULL_REASONS:
            return ErrorKind.IMAGE_PULL_FAILED, said
        if waiting.reason in CONFIG_REASONS and _PASSING not in said:
            return ErrorKind.ACCESS_DENIED, said
    return None


def unscheduled_reason(pod: k8s.V1Pod) -> str | None:
    """Why no node takes the pod, in the scheduler's own words."""
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.message or condition.reason)
    return None


def trouble_told(events: Sequence[k8s.CoreV1Event]) -> str | None:
    """The newest warning among a pod's events; a volume or a sandbox that cannot be made is told nowhere else."""
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


def _told_by_stage(pod: k8s.V1Pod) -> AirsmithError | None:
    """The stage's own JSON line, from the termination log or the last line of its log."""
    ended = _ended(pod)
    if ended is None or not ended.message:
        return None
    return AirsmithError.from_json_line(ended.message.strip().splitlines()[-1])


def _taken_back_by_queue(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    """What Kueue says about a pod that it ends. It goes first: the stage only knows that it had to stop."""
    for condition in pod.status.conditions or ():
        if condition.type == "TerminationTarget" and condition.status == "True":
            return _taken_back(stage, condition.message or condition.reason)
    return None


def _taken_back(stage: str, said: str) -> AirsmithError:
    """The error of a pod whose place was taken; a person's deactivation of its Workload is no preemption."""
    kind = ErrorKind.EVICTED if "deactivated" in said else ErrorKind.PREEMPTED
    return AirsmithError(kind, f"The pod of stage {stage} was ended: {said.rstrip('.')}.", _GOES_ON)


def _disrupted(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    for condition in pod.status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            kind, why = _DISRUPTIONS.get(condition.reason, (ErrorKind.EVICTED, condition.message or condition.reason))
            return AirsmithError(kind, f"The pod of stage {stage} was ended: {why}.", _GOES_ON)
    if pod.status.reason in ("Evicted", "Preempting"):
        message = (pod.status.message or "its node ran short").rstrip(".")
        return AirsmithError(ErrorKind.EVICTED, f"The pod of stage {stage} was evicted: {message}.", _GOES_ON)
    if pod.status.reason in ("NodeLost", "NodeShutdown", "Terminated"):
        return AirsmithError(ErrorKind.NODE_LOST, f"The node of stage {stage} was lost or shut down.", _GOES_ON)
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


def _ended_otherwise(stage: str, pod: k8s.V1Pod) -> AirsmithError | None:
    ended = _ended(pod)
    if ended is None:
        return None
    if ended.exit_code == _SIGKILL_EXIT:
        return AirsmithError(ErrorKind.KILLED, f"The process of stage {stage} was killed from outside.", _GOES_ON)
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"Stage {stage} ended with exit code {ended.exit_code} ({ended.reason}) and did not say why.",
        "See the last lines of its log.",
    )


def _never_started(stage: str, pod: k8s.V1Pod, events: Sequence[k8s.CoreV1Event]) -> AirsmithError | None:
    if pod.status.phase != "Pending":
        return None
    waiting = waiting_reason(pod)
    if waiting is not None:
        kind, said = waiting
        return AirsmithError(kind, f"The container of stage {stage} cannot start: {said.rstrip('.')}.", _HINTS[kind])
    unscheduled = unscheduled_reason(pod)
    if unscheduled is not None:
        return AirsmithError(
            ErrorKind.UNSCHEDULABLE,
            f"No node took the pod of stage {stage} in time: {unscheduled.rstrip('.')}.",
            "Lower backend.resources, add nodes, or raise the backend's startup_timeout_seconds in the settings.",
        )
    trouble = trouble_told(events)
    return AirsmithError(
        ErrorKind.UNSCHEDULABLE,
        f"The pod of stage {stage} did not start in time: {trouble.rstrip('.') if trouble else 'nobody says why'}.",
        "See the node's and the registry's state, or raise the backend's startup_timeout_seconds in the settings.",
    )


def _vanished_node(stage: str, pod: k8s.V1Pod) -> AirsmithError:
    return AirsmithError(
        ErrorKind.NODE_LOST,
        f"The pod of stage {stage} is {pod.status.phase} on node {pod.spec.node_name} and says no more.",
        _GOES_ON,
    )
