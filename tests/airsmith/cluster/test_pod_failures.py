"""What a pod died of becomes one error of the closed list, in words."""

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


class Answer:
    """An answer of the API server, as its client reads one."""

    def __init__(self, content: Any) -> None:
        self.data = json.dumps(content)


def pod(phase: str = "Failed", container: dict[str, Any] | None = None, **status: Any) -> k8s.V1Pod:
    """A pod as the API server shows it.

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
    read: k8s.V1Pod = ApiClient().deserialize(Answer(content), "V1Pod")
    return read


def ended(exit_code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


def waiting(reason: str, message: str = "m") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def condition(kind: str, status: str, reason: str, message: str = "m") -> list[dict[str, Any]]:
    return [{"type": kind, "status": status, "reason": reason, "message": message}]


SAID = AirsmithError(ErrorKind.BAD_DATA, "Row 3 is broken.", "Mend it.")
NO_NODE = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
PREEMPTED = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
DEACTIVATED = "The workload is deactivated"

CASES = [
    (pod(container=ended(1, message=f"INFO: x\n{SAID.to_json_line()}\n")), "bad_data", "Row 3 is broken"),
    (pod(container=ended(137, "OOMKilled")), "out_of_memory", "limit of 512Mi"),
    (pod(container=ended(137)), "killed", "killed from outside"),
    (pod(container=ended(3)), "internal", "exit code 3"),
    (pod(reason="Evicted", message="The node was low on resource: ephemeral-storage."), "evicted", "ephemeral-storage"),
    (
        pod(container=ended(143), conditions=condition("DisruptionTarget", "True", "EvictionByEvictionAPI")),
        "evicted",
        "drained",
    ),
    (pod(conditions=condition("DisruptionTarget", "True", "PreemptionByScheduler")), "preempted", "more important"),
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


@pytest.mark.parametrize(("died", "kind", "words"), CASES, ids=[f"{kind}-{n}" for n, (_, kind, _) in enumerate(CASES)])
def test_a_pods_end_is_told_as_its_kind_and_in_words(died: k8s.V1Pod, kind: str, words: str) -> None:
    error = failure_of("train", died)
    assert error.kind.value == kind
    assert words in error.message
    assert error.hint


def test_what_the_stage_said_wins_over_what_the_cluster_did_then() -> None:
    told = ended(1, message=AirsmithError(ErrorKind.INTERRUPTED, "Stopped.", "Go on.").to_json_line())
    drained = pod(container=told, conditions=condition("DisruptionTarget", "True", "EvictionByEvictionAPI"))
    assert failure_of("train", drained).kind is ErrorKind.INTERRUPTED


def test_a_preemption_is_told_even_where_the_stage_stopped_in_order() -> None:
    told = ended(1, message=AirsmithError(ErrorKind.INTERRUPTED, "Stopped.", "Go on.").to_json_line())
    taken = condition("TerminationTarget", "True", "WorkloadEvictedDueToPreempted", PREEMPTED)
    assert failure_of("train", pod(container=told, conditions=taken)).kind is ErrorKind.PREEMPTED


@pytest.mark.parametrize(
    ("reason", "reporter", "said", "kind"),
    [
        ("Stopped", "pod-kueue-controller", PREEMPTED, "preempted"),
        ("Stopped", "pod-kueue-controller", "The ClusterQueue is stopped", "preempted"),
        ("Stopped", "pod-kueue-controller", DEACTIVATED, "evicted"),
        ("Preempted", "default-scheduler", "Preempted by pod 1 on node n", "preempted"),
        ("Killing", "kubelet", "Stopping container base", "pod_missing"),
    ],
)
def test_the_events_of_a_vanished_pod_say_who_took_its_place(reason: str, reporter: str, said: str, kind: str) -> None:
    event = k8s.CoreV1Event(
        metadata=k8s.V1ObjectMeta(),
        involved_object=k8s.V1ObjectReference(),
        reason=reason,
        message=said,
        source=k8s.V1EventSource(component=reporter),
    )
    assert pod_missing("train", "p", [event]).kind.value == kind


def test_a_pod_that_its_node_cannot_start_is_said_in_the_words_of_its_newest_warning() -> None:
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


def test_a_pod_that_was_deleted_while_it_worked_has_not_succeeded() -> None:
    assert has_finished(pod("Failed"))
    assert not has_finished(pod("Running", {"running": {}}))
    assert not has_succeeded(pod("Running", {"running": {}}))
    assert has_succeeded(pod("Succeeded", ended(0, "Completed")))
    assert has_succeeded(pod("Running", ended(0, "Completed")))


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (500, 'failed calling webhook "mpod.kb.io": connect: connection refused', "unschedulable"),
        (429, "too many requests", "unschedulable"),
        (403, "exceeded quota: gpus", "unschedulable"),
        (403, "pods is forbidden", "access_denied"),
        (422, "spec.containers[0].image: Required value", "bad_recipe"),
    ],
)
def test_a_pod_that_the_cluster_refuses_is_told_in_its_words(status: int, said: str, kind: str) -> None:
    refusal = ApiException(status=status, reason=said)
    error = creation_error("train", refusal)
    assert error.kind.value == kind
    assert said in error.message
    assert error.hint
