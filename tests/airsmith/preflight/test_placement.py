"""Which pods fit an existing node, or a node that Karpenter could create."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import models as k8s
from kubernetes.utils.quantity import parse_quantity

from airsmith.backends.instances import instance_table
from airsmith.preflight.placement import PodNeeds, pool_may_take, why_no_node_fits

GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "effect": "NoSchedule"}
TOLERATION = k8s.V1Toleration(key=GPU, operator="Exists", effect="NoSchedule")


def request_for(
    requests: dict[str, str], selector: dict[str, str] | None = None, tolerations: tuple[k8s.V1Toleration, ...] = ()
) -> PodNeeds:
    return PodNeeds({name: parse_quantity(amount) for name, amount in requests.items()}, selector or {}, tolerations)


def node(
    allocatable: dict[str, str], labels: dict[str, str] | None = None, taints: tuple[dict[str, str], ...] = ()
) -> k8s.V1Node:
    return k8s.V1Node(
        metadata=k8s.V1ObjectMeta(name="node", labels=labels),
        spec=k8s.V1NodeSpec(taints=[k8s.V1Taint(**taint) for taint in taints] or None),
        status=k8s.V1NodeStatus(allocatable=allocatable),
    )


def pool(*requirements: tuple[str, str, list[str]], **template: Any) -> dict[str, Any]:
    spec = {
        "requirements": [
            {"key": key, "operator": operator, "values": values} for key, operator, values in requirements
        ],
        "taints": template.get("taints"),
    }
    return {"spec": {"template": {"metadata": {"labels": template.get("labels")}, "spec": spec}}}


SMALL = node({"cpu": "2", "memory": "8Gi"}, {"zone": "a"})
ACCELERATED = node({"cpu": "8", "memory": "64Gi", GPU: "4"}, {"zone": "b"}, (TAINT,))


@pytest.mark.parametrize(
    ("pod", "refusal"),
    [
        (request_for({"cpu": "2", "memory": "8Gi"}), None),
        (request_for({"cpu": "500m", "memory": "1Gi"}, {"zone": "a"}), None),
        (request_for({GPU: "4"}, tolerations=(TOLERATION,)), None),
        (request_for({GPU: "4"}, tolerations=(k8s.V1Toleration(operator="Exists"),)), None),
        (request_for({"cpu": "1"}, {"zone": "c"}), "none has the labels zone=c"),
        (request_for({"amd.com/gpu": "1"}), "none offers amd.com/gpu"),
        (request_for({GPU: "1"}, {"zone": "a"}), "none offers nvidia.com/gpu"),
        (request_for({GPU: "1"}, {"zone": "b"}), "the nodes with its labels have taints that it does not tolerate"),
        (request_for({"memory": "9Gi"}), "it requests memory 9663676416, but node offers 8Gi"),
        (request_for({GPU: "5"}, tolerations=(TOLERATION,)), "it requests nvidia.com/gpu 5, but node offers 0"),
    ],
)
def test_a_pod_that_fits_no_node_is_refused_with_the_reason(pod: PodNeeds, refusal: str | None):
    found = why_no_node_fits(pod, [SMALL, ACCELERATED])
    assert (found or "").startswith(refusal or "")
    assert (found is None) == (refusal is None)


NEURON, EFA = "aws.amazon.com/neuron", "vpc.amazonaws.com/efa"
TRN1 = {"node.kubernetes.io/instance-type": "trn1.32xlarge"}


@pytest.mark.parametrize(
    ("allocatable", "refusal"),
    [
        ({"cpu": "128", NEURON: "16", EFA: "8"}, None),
        ({"cpu": "128", NEURON: "16"}, f"it asks for {EFA} 8, of which node offers 0"),
        ({"cpu": "128", EFA: "8"}, f"none offers {NEURON}"),
    ],
)
def test_a_trainium_pod_also_requires_efa(allocatable: dict[str, str], refusal: str | None):
    pod = request_for({"cpu": "120", EFA: "8", NEURON: "16"}, TRN1)
    assert pod.device == NEURON
    assert why_no_node_fits(pod, [node(allocatable, TRN1)]) == refusal


def test_a_cordoned_node_counts_as_available():
    cordoned = node({"cpu": "2"}, taints=({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},))
    assert why_no_node_fits(request_for({"cpu": "1"}), [cordoned]) is None
    assert why_no_node_fits(request_for({"cpu": "1"}), []) == "the cluster has no nodes"


TRAIN = request_for({"cpu": "6", "memory": "64Gi", GPU: "8"}, tolerations=(TOLERATION,))
P5 = {"node.kubernetes.io/instance-type": "p5.48xlarge"}
FAMILY, CATEGORY = "karpenter.k8s.aws/instance-family", "karpenter.k8s.aws/instance-category"
NAME = "karpenter.k8s.aws/instance-gpu-name"
ON_P5 = PodNeeds(TRAIN.requests, P5, TRAIN.tolerations)


@pytest.mark.parametrize(
    ("node_pool", "pod", "accepted"),
    [
        (pool((FAMILY, "In", ["p5", "p4d"])), TRAIN, True),
        (pool((FAMILY, "In", ["p5"]), taints=[TAINT]), ON_P5, True),
        (pool((NAME, "In", ["h100"]), ("karpenter.k8s.aws/instance-gpu-count", "Gt", ["4"])), ON_P5, True),
        (pool((NAME, "NotIn", ["h100"])), ON_P5, False),
        (pool((CATEGORY, "In", ["m", "c"])), TRAIN, False),
        (pool((NAME, "DoesNotExist", [])), TRAIN, False),
        (pool((FAMILY, "In", ["g4dn"])), TRAIN, True),  # not in the table
        (pool((FAMILY, "In", ["p5"]), taints=[{"key": "team", "value": "x", "effect": "NoSchedule"}]), TRAIN, False),
        (pool((FAMILY, "In", ["p4d"])), ON_P5, False),
        (pool((FAMILY, "In", ["trn1"])), TRAIN, False),
        (
            pool((FAMILY, "In", ["trn1"])),
            request_for({"cpu": "120", "memory": "435Gi", EFA: "8", NEURON: "16"}, TRN1),
            True,
        ),
        (
            pool((FAMILY, "In", ["trn2"])),
            request_for({"cpu": "120", "memory": "435Gi", EFA: "8", NEURON: "16"}, TRN1),
            False,
        ),
        (pool((CATEGORY, "In", ["m"])), request_for({"cpu": "2"}), True),
        (pool(), request_for({"cpu": "2"}, {"team": "x"}), False),
        (pool(labels={"team": "x"}), request_for({"cpu": "2"}, {"team": "x"}), True),
        (pool(("team", "In", ["x", "y"])), request_for({"cpu": "2"}, {"team": "y"}), True),
        (pool(("team", "In", ["x"])), request_for({"cpu": "2"}, {"team": "y"}), False),
        (pool(), request_for({"cpu": "2"}, {"topology.kubernetes.io/zone": "a"}), True),
        (pool((FAMILY, "In", ["g5"])), TRAIN, True),
        (pool(("node.kubernetes.io/instance-type", "In", ["g5.xlarge"])), TRAIN, False),
    ],
)
def test_a_node_pool_accepts_the_pods_that_its_nodes_could_run(
    node_pool: dict[str, Any], pod: PodNeeds, accepted: bool
):
    assert pool_may_take(node_pool, pod, instance_table()) is accepted
