"""Kueue's side of a pod: the labels that queue it, whether it waits, and its place and the reason in words.

Nothing here asks a cluster or knows Airflow; answers of the API server are read as plain JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from kubernetes.client import models as k8s

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
JOB_LABEL = "kueue.x-k8s.io/job-uid"
"""Of a Workload, by which its pod is known."""

_GATES = "kueue.x-k8s.io/"
_NAMESPACES = "v1beta1/namespaces"


def queue_labels(queue: str | None, priority: str | None) -> dict[str, str]:
    """The labels that hand a pod to a LocalQueue.

    :param priority: a WorkloadPriorityClass.
    """
    if queue is None:
        return {}
    return {QUEUE_LABEL: queue, **({PRIORITY_LABEL: priority} if priority is not None else {})}


def is_held_back(pod: k8s.V1Pod) -> bool:
    """Whether Kueue keeps the scheduler from looking at the pod: it opens its gates when the pod's turn has come."""
    return any(gate.name.startswith(_GATES) for gate in pod.spec.scheduling_gates or ())


def queue_of(pod: k8s.V1Pod) -> str:
    """The LocalQueue that holds a pod back."""
    return str(pod.metadata.labels[QUEUE_LABEL])


def pending_path(namespace: str, queue: str) -> str:
    """Where Kueue's visibility API, if it is served, lists what waits in a LocalQueue."""
    return (
        f"/apis/visibility.kueue.x-k8s.io/{_NAMESPACES}/{quote(namespace)}/localqueues/{quote(queue)}/pendingworkloads"
    )


def workloads_path(namespace: str) -> str:
    """Where the Workloads of a namespace are listed."""
    return f"/apis/kueue.x-k8s.io/{_NAMESPACES}/{quote(namespace)}/workloads"


def waiting_line(queue: str, pod_uid: str, pending: Mapping[str, Any], workloads: Mapping[str, Any]) -> str:
    """What to tell whoever waits.

    :param pending: the queue's PendingWorkloadsSummary; empty where the visibility API does not answer.
    :param workloads: WorkloadList of the pod; empty where it may not be read.
    """
    place = _place(queue, pod_uid, pending) or f"Waiting in queue {queue}"
    reason = _reason(workloads)
    return f"{place}. Kueue: {reason.rstrip('.')}." if reason else f"{place}."


def _place(queue: str, pod_uid: str, pending: Mapping[str, Any]) -> str | None:
    items = pending.get("items") or []
    for item in items:
        if any(owner["uid"] == pod_uid for owner in item["metadata"].get("ownerReferences") or ()):
            place, place_overall = item["positionInLocalQueue"] + 1, item["positionInClusterQueue"] + 1
            shared = f", {place_overall} of all that share its quota" if place_overall != place else ""
            return f"Waiting: place {place} in queue {queue}{shared}"
    return None


def _reason(workloads: Mapping[str, Any]) -> str:
    """Why the newest Workload is not admitted, in Kueue's words."""
    for workload in workloads.get("items") or ():
        conditions = {each["type"]: each for each in workload.get("status", {}).get("conditions") or ()}
        for step in ("QuotaReserved", "Admitted"):
            if step in conditions and conditions[step]["status"] != "True":
                return str(conditions[step].get("message") or "")
    return ""
