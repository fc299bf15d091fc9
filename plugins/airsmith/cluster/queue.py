"""Kueue: the labels that queue a pod, whether it is queued, and its position and the reason in words.

Nothing here sends a request: the API server's responses are read as plain JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from kubernetes.client import models as k8s

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
JOB_LABEL = "kueue.x-k8s.io/job-uid"
"""The Workload's label with the UID of its pod or job."""

_GATES = "kueue.x-k8s.io/"
_NAMESPACES = "v1beta1/namespaces"


def queue_labels(queue: str | None, priority: str | None) -> dict[str, str]:
    """The labels that submit a pod to a LocalQueue.

    :param priority: name of a WorkloadPriorityClass.
    """
    if queue is None:
        return {}
    return {QUEUE_LABEL: queue, **({PRIORITY_LABEL: priority} if priority is not None else {})}


def is_queued(pod: k8s.V1Pod) -> bool:
    """Whether Kueue holds the pod back by a scheduling gate, which it removes on admission."""
    return any(gate.name.startswith(_GATES) for gate in pod.spec.scheduling_gates or ())


def queue_of(pod: k8s.V1Pod) -> str:
    """The pod's LocalQueue."""
    return str(pod.metadata.labels[QUEUE_LABEL])


def pending_path(namespace: str, queue: str) -> str:
    """Path of the pending workloads of a LocalQueue in Kueue's visibility API, which a cluster may not serve."""
    return (
        f"/apis/visibility.kueue.x-k8s.io/{_NAMESPACES}/{quote(namespace)}/localqueues/{quote(queue)}/pendingworkloads"
    )


def workloads_path(namespace: str) -> str:
    """Path of the Workloads of a namespace."""
    return f"/apis/kueue.x-k8s.io/{_NAMESPACES}/{quote(namespace)}/workloads"


def waiting_line(queue: str, pod_uid: str, pending: Mapping[str, Any], workloads: Mapping[str, Any]) -> str:
    """One line for the log: the position in the queue, and why the Workload is not admitted.

    :param pending: the queue's PendingWorkloadsSummary; empty if the visibility API does not respond.
    :param workloads: the pod's WorkloadList; empty if it may not be read.
    """
    position = _position(queue, pod_uid, pending) or f"Waiting in queue {queue}"
    reason = _reason(workloads)
    return f"{position}. Kueue: {reason.rstrip('.')}." if reason else f"{position}."


def _position(queue: str, pod_uid: str, pending: Mapping[str, Any]) -> str | None:
    items = pending.get("items") or []
    for item in items:
        if any(owner["uid"] == pod_uid for owner in item["metadata"].get("ownerReferences") or ()):
            local, overall = item["positionInLocalQueue"] + 1, item["positionInClusterQueue"] + 1
            shared = f", {overall} in its ClusterQueue" if overall != local else ""
            return f"Waiting: position {local} in queue {queue}{shared}"
    return None


def _reason(workloads: Mapping[str, Any]) -> str:
    """Kueue's reason for not admitting the newest Workload."""
    for workload in workloads.get("items") or ():
        conditions = {each["type"]: each for each in workload.get("status", {}).get("conditions") or ()}
        for step in ("QuotaReserved", "Admitted"):
            if step in conditions and conditions[step]["status"] != "True":
                return str(conditions[step].get("message") or "")
    return ""
