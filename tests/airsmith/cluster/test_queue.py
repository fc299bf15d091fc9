"""The log line of a pod that Kueue holds: its position in the queue, and why it waits."""

from __future__ import annotations

from typing import Any

from kubernetes.client import models as k8s

from airsmith.cluster.queue import is_queued, pending_path, queue_labels, waiting_line, workloads_path

UID = "b3d7fd8c-576e-429b-9589-da08f6e85019"
QUOTA_MESSAGE = (
    "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor a100, 5 more needed"
)


def pending(uid: str, in_queue: int, overall: int) -> dict[str, Any]:
    """A PendingWorkloadsSummary of Kueue 0.14."""
    return {
        "items": [
            {
                "metadata": {"name": "w", "ownerReferences": [{"kind": "Pod", "uid": uid}]},
                "localQueueName": "nlp",
                "positionInLocalQueue": in_queue,
                "positionInClusterQueue": overall,
            }
        ]
    }


def workloads(*conditions: tuple[str, str, str]) -> dict[str, Any]:
    rows = [{"type": kind, "status": status, "message": message} for kind, status, message in conditions]
    return {"items": [{"status": {"conditions": rows}}]}


def test_the_line_has_the_position_and_the_reason_of_kueue() -> None:
    line = waiting_line("nlp", UID, pending(UID, 0, 0), workloads(("QuotaReserved", "False", QUOTA_MESSAGE)))
    assert line == f"Waiting: position 1 in queue nlp. Kueue: {QUOTA_MESSAGE}."


def test_the_line_has_the_position_in_the_shared_quota_if_it_differs() -> None:
    assert waiting_line("nlp", UID, pending(UID, 1, 6), {}) == (
        "Waiting: position 2 in queue nlp, 7 in its ClusterQueue."
    )


def test_without_the_visibility_api_the_line_has_no_position() -> None:
    line = waiting_line("nlp", UID, {}, workloads(("QuotaReserved", "False", QUOTA_MESSAGE)))
    assert line == f"Waiting in queue nlp. Kueue: {QUOTA_MESSAGE}."
    assert waiting_line("nlp", UID, pending("other", 0, 0), {}) == "Waiting in queue nlp."


def test_a_pod_with_quota_shows_the_reason_of_its_admission_checks() -> None:
    conditions = ("QuotaReserved", "True", "Quota reserved"), ("Admitted", "False", "Waiting for nodes.")
    assert waiting_line("nlp", UID, {}, workloads(*conditions)) == "Waiting in queue nlp. Kueue: Waiting for nodes."


def test_only_scheduling_gates_of_kueue_hold_a_pod() -> None:
    def gated(*names: str) -> k8s.V1Pod:
        gates = [k8s.V1PodSchedulingGate(name=name) for name in names]
        return k8s.V1Pod(spec=k8s.V1PodSpec(containers=[], scheduling_gates=gates or None))

    assert is_queued(gated("kueue.x-k8s.io/admission"))
    assert not is_queued(gated("example.org/other"))
    assert not is_queued(gated())


def test_a_recipe_without_a_queue_has_no_label() -> None:
    assert queue_labels(None, None) == {}
    assert queue_labels("nlp", None) == {"kueue.x-k8s.io/queue-name": "nlp"}
    assert queue_labels("nlp", "high")["kueue.x-k8s.io/priority-class"] == "high"


def test_the_paths_are_those_of_the_kueue_apis() -> None:
    assert pending_path("airsmith", "nlp") == (
        "/apis/visibility.kueue.x-k8s.io/v1beta1/namespaces/airsmith/localqueues/nlp/pendingworkloads"
    )
    assert workloads_path("airsmith") == "/apis/kueue.x-k8s.io/v1beta1/namespaces/airsmith/workloads"
