"""The failure of a pod maps to an error kind and a message."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.cluster.pod_failures import creation_error, failure_of, has_finished, has_succeeded, pod_missing
from airsmith.errors import AirsmithError, ErrorKind


class ApiResponse:
    """A response of the API server, as its client reads one."""

    def __init__(self, content: Any) -> None:
        self.data = json.dumps(content)


def pod(phase: str = "Failed", container: dict[str, Any] | None = None, **status: Any) -> k8s.V1Pod:
    """A pod as the API server returns it.

    :param container: state of its container.
    """
    states = [] if container is None else [
        {"name": "base", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": container}
    ]  # fmt: skip
    content = {
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "base", "resources": {"limits": {"memory": "512Mi"}}}],
        },
        "status": {"phase": phase, "containerStatuses": states, **status},
    }
    read: k8s.V1Pod = ApiClient().deserialize(ApiResponse(content), "V1Pod")
    return read


def terminated(exit_code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


def waiting(reason: str, message: str = "m") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def condition(kind: str, status: str, reason: str, message: str = "m") -> list[dict[str, Any]]:
    return [{"type": kind, "status": status, "reason": reason, "message": message}]


STAGE_ERROR = AirsmithError(ErrorKind.BAD_DATA, "Row 3 is broken.", "Mend it.")
NO_NODE = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
PREEMPTED = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
DEACTIVATED = "The workload is deactivated"

CASES = [
    (pod(container=terminated(1, message=f"INFO: x\n{STAGE_ERROR.to_json_line()}\n")), "bad_data", "Row 3 is broken"),
    (pod(container=terminated(137, "OOMKilled")), "out_of_memory", "limit of 512Mi"),
    (pod(container=terminated(137)), "killed", "was killed"),
    (pod(container=terminated(3)), "internal", "exited with code 3"),
    (pod(reason="Evicted", message="The node was low on resource: ephemeral-storage."), "evicted", "ephemeral-storage"),
    (
        pod(container=terminated(143), conditions=condition("DisruptionTarget", "True", "EvictionByEvictionAPI")),
        "evicted",
        "drained",
    ),
    (
        pod(conditions=condition("DisruptionTarget", "True", "PreemptionByScheduler")),
        "preempted",
        "preempted by pods of a higher priority",
    ),
    (
        pod(conditions=condition("TerminationTarget", "True", "WorkloadEvictedDueToPreempted", PREEMPTED)),
        "preempted",
        "to accommodate a workload",
    ),
    (
        pod(conditions=condition("TerminationTarget", "True", "WorkloadEvictedDueToDeactivated", DEACTIVATED)),
        "evicted",
        "deactivated",
    ),
    (pod(conditions=condition("DisruptionTarget", "True", "DeletionByTaintManager")), "node_lost", "node was lost"),
    (pod(reason="NodeLost"), "node_lost", "lost"),
    (pod("Unknown"), "node_lost", "node-1"),
    (pod("Pending", waiting("InvalidImageName", "couldn't parse A:B:C")), "invalid_image_name", "A:B:C"),
    (pod("Pending", waiting("ImagePullBackOff", "not found")), "image_pull_failed", "not found"),
    (pod("Pending", waiting("CreateContainerConfigError", 'secret "s" not found')), "access_denied", "secret"),
    (
        pod("Pending", waiting("CreateContainerConfigError", "failed to sync secret cache: timed out")),
        "unschedulable",
        "did not start in time",
    ),
    (pod("Pending", conditions=condition("PodScheduled", "False", "Unschedulable", NO_NODE)), "unschedulable", "gpu"),
    (pod("Pending", waiting("ContainerCreating")), "unschedulable", "did not start in time"),
]


@pytest.mark.parametrize(
    ("failed_pod", "kind", "words"), CASES, ids=[f"{kind}-{n}" for n, (_, kind, _) in enumerate(CASES)]
)
def test_a_failed_pod_maps_to_an_error_kind_and_message(failed_pod: k8s.V1Pod, kind: str, words: str) -> None:
    error = failure_of("train", failed_pod)
    assert error.kind.value == kind
    assert words in error.message
    assert error.hint


def test_the_error_of_the_stage_wins_over_an_eviction() -> None:
    terminated_state = terminated(1, message=AirsmithError(ErrorKind.INTERRUPTED, "Stopped.", "Go on.").to_json_line())
    drained = pod(container=terminated_state, conditions=condition("DisruptionTarget", "True", "EvictionByEvictionAPI"))
    assert failure_of("train", drained).kind is ErrorKind.INTERRUPTED


def test_a_preemption_wins_over_an_interrupted_stage() -> None:
    terminated_state = terminated(1, message=AirsmithError(ErrorKind.INTERRUPTED, "Stopped.", "Go on.").to_json_line())
    preempted = condition("TerminationTarget", "True", "WorkloadEvictedDueToPreempted", PREEMPTED)
    assert failure_of("train", pod(container=terminated_state, conditions=preempted)).kind is ErrorKind.PREEMPTED


@pytest.mark.parametrize(
    ("reason", "component", "message", "kind"),
    [
        ("Stopped", "pod-kueue-controller", PREEMPTED, "preempted"),
        ("Stopped", "pod-kueue-controller", "The ClusterQueue is stopped", "preempted"),
        ("Stopped", "pod-kueue-controller", DEACTIVATED, "evicted"),
        ("Preempted", "default-scheduler", "Preempted by pod 1 on node n", "preempted"),
        ("Killing", "kubelet", "Stopping container base", "pod_missing"),
    ],
)
def test_the_events_of_a_missing_pod_explain_its_removal(reason: str, component: str, message: str, kind: str) -> None:
    event = k8s.CoreV1Event(
        metadata=k8s.V1ObjectMeta(),
        involved_object=k8s.V1ObjectReference(),
        reason=reason,
        message=message,
        source=k8s.V1EventSource(component=component),
    )
    assert pod_missing("train", "p", [event]).kind.value == kind


def test_a_pod_that_does_not_start_is_reported_with_its_newest_warning() -> None:
    def event(minute: int, kind: str, reason: str, message: str) -> k8s.CoreV1Event:
        return k8s.CoreV1Event(
            metadata=k8s.V1ObjectMeta(),
            involved_object=k8s.V1ObjectReference(),
            type=kind,
            reason=reason,
            message=message,
            last_timestamp=datetime(2026, 1, 1, 0, minute, tzinfo=timezone.utc),
        )

    events = [
        event(3, "Warning", "FailedCreatePodSandBox", "no sandbox image"),
        event(1, "Warning", "FailedMount", "no such volume"),
        event(4, "Normal", "Scheduled", "to node-1"),
    ]
    failure = failure_of("train", pod("Pending", waiting("ContainerCreating")), events)
    assert failure.kind is ErrorKind.UNSCHEDULABLE
    assert "did not start in time: FailedCreatePodSandBox: no sandbox image." in str(failure)


def test_a_pod_succeeds_only_if_its_container_exits_with_0() -> None:
    assert has_finished(pod("Failed"))
    assert not has_finished(pod("Running", {"running": {}}))
    assert not has_succeeded(pod("Running", {"running": {}}))
    assert has_succeeded(pod("Succeeded", terminated(0, "Completed")))
    assert has_succeeded(pod("Running", terminated(0, "Completed")))


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (500, 'failed calling webhook "mpod.kb.io": connect: connection refused', "unschedulable"),
        (429, "too many requests", "unschedulable"),
        (403, "exceeded quota: gpus", "unschedulable"),
        (403, "pods is forbidden", "access_denied"),
        (422, "spec.containers[0].image: Required value", "bad_recipe"),
    ],
)
def test_a_refused_pod_is_reported_with_the_message_of_the_cluster(status: int, message: str, kind: str) -> None:
    refusal = ApiException(status=status, reason=message)
    error = creation_error("train", refusal)
    assert error.kind.value == kind
    assert message in error.message
    assert error.hint
