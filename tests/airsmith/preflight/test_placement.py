"""Which pods some node, or some node that Karpenter would make, could take."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import models as k8s
from kubernetes.utils.quantity import parse_quantity

from airsmith.backends.instances import instance_table
from airsmith.preflight.placement import Wish, pool_may_take, refusal_by_nodes

GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "effect": "NoSchedule"}
TOLERATION = k8s.V1Toleration(key=GPU, operator="Exists", effect="NoSchedule")


def wish(
    requests: dict[str, str], selector: dict[str, str] | None = None, tolerations: tuple[k8s.V1Toleration, ...] = ()
) -> Wish:
    return Wish({name: parse_quantity(amount) for name, amount in requests.items()}, selector or {}, tolerations)


def node(
    offers: dict[str, str], labels: dict[str, str] | None = None, taints: tuple[dict[str, str], ...] = ()
) -> k8s.V1Node:
    return k8s.V1Node(
        metadata=k8s.V1ObjectMeta(name="node", labels=labels),
        spec=k8s.V1NodeSpec(taints=[k8s.V1Taint(**taint) for taint in taints] or None),
        status=k8s.V1NodeStatus(allocatable=offers),
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
        (wish({"cpu": "2", "memory": "8Gi"}), None),
        (wish({"cpu": "500m", "memory": "1Gi"}, {"zone": "a"}), None),
        (wish({GPU: "4"}, tolerations=(TOLERATION,)), None),
        (wish({GPU: "4"}, tolerations=(k8s.V1Toleration(operator="Exists"),)), None),
        (wish({"cpu": "1"}, {"zone": "c"}), "none has the labels zone=c"),
        (wish({"amd.com/gpu": "1"}), "none offers amd.com/gpu"),
        (wish({GPU: "1"}, {"zone": "a"}), "none offers nvidia.com/gpu"),
        (wish({GPU: "1"}, {"zone": "b"}), "those with its labels have taints that it does not tolerate"),
        (wish({"memory": "9Gi"}), "it asks for memory 9663676416, of which node offers 8Gi"),
        (wish({GPU: "5"}, tolerations=(TOLERATION,)), "it asks for nvidia.com/gpu 5, of which node offers 0"),
    ],
)
def test_a_pod_is_refused_for_what_no_node_has(pod: Wish, refusal: str | None):
    found = refusal_by_nodes(pod, [SMALL, ACCELERATED])
    assert (found or "").startswith(refusal or "")
    assert (found is None) == (refusal is None)


NEURON, EFA = "aws.amazon.com/neuron", "vpc.amazonaws.com/efa"
TRN1 = {"node.kubernetes.io/instance-type": "trn1.32xlarge"}


@pytest.mark.parametrize(
    ("offers", "refusal"),
    [
        ({"cpu": "128", NEURON: "16", EFA: "8"}, None),
        ({"cpu": "128", NEURON: "16"}, f"it asks for {EFA} 8, of which node offers 0"),
        ({"cpu": "128", EFA: "8"}, f"none offers {NEURON}"),
    ],
)
def test_a_node_of_trainium_must_have_its_efa_as_well(offers: dict[str, str], refusal: str | None):
    pod = wish({"cpu": "120", EFA: "8", NEURON: "16"}, TRN1)
    assert pod.device == NEURON
    assert refusal_by_nodes(pod, [node(offers, TRN1)]) == refusal


def test_a_node_that_is_cordoned_or_ill_comes_back():
    cordoned = node({"cpu": "2"}, taints=({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},))
    assert refusal_by_nodes(wish({"cpu": "1"}), [cordoned]) is None
    assert refusal_by_nodes(wish({"cpu": "1"}), []) == "the cluster has none"


TRAIN = wish({"cpu": "6", "memory": "64Gi", GPU: "8"}, tolerations=(TOLERATION,))
P5 = {"node.kubernetes.io/instance-type": "p5.48xlarge"}
FAMILY, CATEGORY = "karpenter.k8s.aws/instance-family", "karpenter.k8s.aws/instance-category"
NAME = "karpenter.k8s.aws/instance-gpu-name"
ON_P5 = Wish(TRAIN.requests, P5, TRAIN.tolerations)


@pytest.mark.parametrize(
    ("made", "pod", "takes"),
    [
        (pool((FAMILY, "In", ["p5", "p4d"])), TRAIN, True),
        (pool((FAMILY, "In", ["p5"]), taints=[TAINT]), ON_P5, True),
        (pool((NAME, "In", ["h100"]), ("karpenter.k8s.aws/instance-gpu-count", "Gt", ["4"])), ON_P5, True),
        (pool((NAME, "NotIn", ["h100"])), ON_P5, False),
        (pool((CATEGORY, "In", ["m", "c"])), TRAIN, False),
        (pool((NAME, "DoesNotExist", [])), TRAIN, False),
        (pool((FAMILY, "In", ["g4dn"])), TRAIN, True),  # which the table does not know
        (pool((FAMILY, "In", ["p5"]), taints=[{"key": "team", "value": "x", "effect": "NoSchedule"}]), TRAIN, False),
        (pool((FAMILY, "In", ["p4d"])), ON_P5, False),
        (pool((FAMILY, "In", ["trn1"])), TRAIN, False),
        (pool((FAMILY, "In", ["trn1"])), wish({"cpu": "120", "memory": "435Gi", EFA: "8", NEURON: "16"}, TRN1), True),
        (pool((FAMILY, "In", ["trn2"])), wish({"cpu": "120", "memory": "435Gi", EFA: "8", NEURON: "16"}, TRN1), False),
        (pool((CATEGORY, "In", ["m"])), wish({"cpu": "2"}), True),
        (pool(), wish({"cpu": "2"}, {"team": "x"}), False),
        (pool(labels={"team": "x"}), wish({"cpu": "2"}, {"team": "x"}), True),
        (pool(("team", "In", ["x", "y"])), wish({"cpu": "2"}, {"team": "y"}), True),
        (pool(("team", "In", ["x"])), wish({"cpu": "2"}, {"team": "y"}), False),
        (pool(), wish({"cpu": "2"}, {"topology.kubernetes.io/zone": "a"}), True),
        (pool((FAMILY, "In", ["g5"])), TRAIN, True),
        (pool(("node.kubernetes.io/instance-type", "In", ["g5.xlarge"])), TRAIN, False),
    ],
)
def test_a_node_pool_is_asked_what_it_would_make(made: dict[str, Any], pod: Wish, takes: bool):
    assert pool_may_take(made, pod, instance_table()) is takes
