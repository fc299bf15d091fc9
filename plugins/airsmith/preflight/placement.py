"""Whether any node, or any node that Karpenter would make, could take a pod."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from kubernetes.utils.quantity import parse_quantity

from airsmith.backends.instances import FAMILY_LABEL, INSTANCE_TYPE_LABEL, InstanceTable, instance_table
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.checks import check_all

PASSING_TAINTS = "node.kubernetes.io/"
"""Begins the taints that a node's own state sets: not ready, under pressure, cordoned."""

_GIBIBYTE = 1024**3


@dataclass(frozen=True)
class Wish:
    """What a pod asks of a node."""

    requests: Mapping[str, Decimal]
    selector: Mapping[str, str]
    tolerations: Sequence[k8s.V1Toleration]

    @classmethod
    def of_pod(cls, pod: k8s.V1Pod) -> Wish:
        """What a pod of one container asks."""
        requests = pod.spec.containers[0].resources.requests or {}
        amounts = {name: parse_quantity(amount) for name, amount in requests.items()}
        return cls(amounts, pod.spec.node_selector or {}, pod.spec.tolerations or ())

    @property
    def device(self) -> str | None:
        """The accelerators' resource; None without."""
        return next((name for name in self.requests if name in instance_table().device_resources), None)

    def tolerates(self, taint: Mapping[str, Any]) -> bool:
        """Whether a taint keeps the pod away."""
        if taint["effect"] == "PreferNoSchedule" or str(taint["key"]).startswith(PASSING_TAINTS):
            return True
        return any(
            toleration.effect in (None, "", taint["effect"])
            and toleration.key in (None, "", taint["key"])
            and (toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or ""))
            for toleration in self.tolerations
        )


def refuse_unplaceable(pods: Mapping[str, k8s.V1Pod], client: ApiClient) -> None:
    """See that each pod has a node or a node pool that could take it, were it empty.

    :raises AirsmithError: `unschedulable`, naming for each pod what no node offers.
    :raises ApiException: where the cluster does not show its nodes.
    """
    wishes = {stage: Wish.of_pod(pod) for stage, pod in pods.items()}
    nodes = _nodes(client)
    pools = _node_pools(client) if any(refusal_by_nodes(wish, nodes) for wish in wishes.values()) else []

    def check(stage: str, wish: Wish) -> None:
        why = refusal_by_nodes(wish, nodes)
        if why is not None and not any(pool_may_take(pool, wish, instance_table()) for pool in pools):
            offered = " and no Karpenter node pool makes one that does" if pools else ""
            raise AirsmithError(
                ErrorKind.UNSCHEDULABLE,
                f"No node could take the pod of stage {stage}: {why}{offered}.",
                "Add such a node or node pool; or correct backend.instance_type and backend.resources in the recipe, "
                "node_selector and tolerations of the backend in the settings. Where an autoscaler would make the node "
                "without showing it, switch kubernetes.check_placement off.",
            )

    check_all([lambda stage=stage, wish=wish: check(stage, wish) for stage, wish in wishes.items()])  # type: ignore[misc]


def refusal_by_nodes(wish: Wish, nodes: Sequence[k8s.V1Node]) -> str | None:
    """Why none of the nodes could take a pod; None where one could."""
    selected = [node for node in nodes if (node.metadata.labels or {}).items() >= wish.selector.items()]
    if not selected:
        labels = ", ".join(f"{key}={value}" for key, value in wish.selector.items())
        return f"none has the labels {labels}" if labels else "the cluster has none"
    if wish.device is not None and not any(_offer(node, wish.device) for node in selected):
        return f"none offers {wish.device}"
    open_ones = [node for node in selected if all(wish.tolerates(_plain(taint)) for taint in node.spec.taints or ())]
    if not open_ones:
        taints = {taint.key for node in selected for taint in node.spec.taints if not wish.tolerates(_plain(taint))}
        return f"those with its labels have taints that it does not tolerate ({', '.join(sorted(taints))})"
    shortages = [_shortage(node, wish.requests) for node in open_ones]
    return None if None in shortages else shortages[0]


def pool_may_take(pool: Mapping[str, Any], wish: Wish, table: InstanceTable) -> bool:
    """Whether a Karpenter NodePool might make a node for a pod. Where the table does not know, it might."""
    template = pool["spec"]["template"]
    spec, labels = template["spec"], template.get("metadata", {}).get("labels") or {}
    requirements = spec.get("requirements") or []
    if not all(wish.tolerates(taint) for taint in spec.get("taints") or ()):
        return False
    if wish.device is None or _names_unknown_types(requirements, table):
        return _selector_fits(wish, labels, requirements, {})
    gibibytes = float(wish.requests.get("memory", Decimal(0))) / _GIBIBYTE
    candidates = table.fitting(
        wish.device, int(wish.requests[wish.device]), float(wish.requests.get("cpu", Decimal(0))), gibibytes
    )
    return any(
        _admits(requirements, table.labels_of(name))
        and _selector_fits(wish, labels, requirements, table.labels_of(name))
        for name in candidates
    )


def _nodes(client: ApiClient) -> list[k8s.V1Node]:
    return list(CoreV1Api(client).list_node(_request_timeout=30).items)


def _node_pools(client: ApiClient) -> list[dict[str, Any]]:
    try:
        pools = DynamicClient(client).resources.get(group="karpenter.sh", kind="NodePool")
    except ResourceNotFoundError:
        return []
    return [pool.to_dict() for pool in pools.get().items]


def _plain(taint: k8s.V1Taint) -> dict[str, Any]:
    return {"key": taint.key, "value": taint.value, "effect": taint.effect}


def _offer(node: k8s.V1Node, resource: str) -> Decimal:
    return Decimal(parse_quantity((node.status.allocatable or {}).get(resource, "0")))


def _shortage(node: k8s.V1Node, requests: Mapping[str, Decimal]) -> str | None:
    """The first resource of which a node has too little for a pod, even when it is empty."""
    for resource, amount in requests.items():
        offered = (node.status.allocatable or {}).get(resource, "0")
        if _offer(node, resource) < amount:
            return f"it asks for {resource} {amount.normalize():f}, of which {node.metadata.name} offers {offered}"
    return None


def _admits(requirements: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> bool:
    """Whether requirements hold for a node of these labels; those on other labels might."""
    return all(
        _holds(requirement["operator"], requirement.get("values") or [], labels[requirement["key"]])
        for requirement in requirements
        if requirement["key"] in labels
    )


def _holds(operator: str, values: Sequence[str], label: str) -> bool:
    if operator in ("Gt", "Lt"):
        return True  # on counts and sizes, which the table's labels do not hold
    return {"In": label in values, "NotIn": label not in values, "Exists": True, "DoesNotExist": False}[operator]


def _names_unknown_types(requirements: Iterable[Mapping[str, Any]], table: InstanceTable) -> bool:
    known = {label for name in table.instances for label in table.labels_of(name).values()}
    return any(
        requirement["operator"] == "In" and not known.issuperset(requirement.get("values") or ())
        for requirement in requirements
        if requirement["key"] in (INSTANCE_TYPE_LABEL, FAMILY_LABEL)
    )


def _selector_fits(
    wish: Wish, pool_labels: Mapping[str, str], requirements: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> bool:
    """Whether a node of the pool has, or may get, the labels that a pod selects."""
    required = {requirement["key"]: requirement for requirement in requirements}
    for key, value in wish.selector.items():
        given = pool_labels.get(key, labels.get(key))
        if given is not None and given != value:
            return False
        if key in required and not _holds(required[key]["operator"], required[key].get("values") or [], value):
            return False
        if (
            given is None
            and key not in required
            and not key.startswith(("karpenter.", "kubernetes.io/", "node.kubernetes.io/", "topology."))
        ):
            return False
    return True
