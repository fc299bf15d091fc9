"""Checks that some node, or some node that Karpenter would create, fits each pod."""

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

TEMPORARY_TAINTS = "node.kubernetes.io/"
"""Prefix of the taints that reflect a node's state: not ready, under pressure, cordoned."""

_GIBIBYTE = 1024**3


@dataclass(frozen=True)
class PodNeeds:
    """What a pod requires of a node."""

    requests: Mapping[str, Decimal]
    selector: Mapping[str, str]
    tolerations: Sequence[k8s.V1Toleration]

    @classmethod
    def of_pod(cls, pod: k8s.V1Pod) -> PodNeeds:
        """The requirements of a pod with one container."""
        requests = pod.spec.containers[0].resources.requests or {}
        amounts = {name: parse_quantity(amount) for name, amount in requests.items()}
        return cls(amounts, pod.spec.node_selector or {}, pod.spec.tolerations or ())

    @property
    def device(self) -> str | None:
        """The accelerators' resource; None without accelerators."""
        return next((name for name in self.requests if name in instance_table().device_resources), None)

    def tolerates(self, taint: Mapping[str, Any]) -> bool:
        """Whether the pod may run on a node with this taint."""
        if taint["effect"] == "PreferNoSchedule" or str(taint["key"]).startswith(TEMPORARY_TAINTS):
            return True
        return any(
            toleration.effect in (None, "", taint["effect"])
            and toleration.key in (None, "", taint["key"])
            and (toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or ""))
            for toleration in self.tolerations
        )


def check_placement(pods: Mapping[str, k8s.V1Pod], client: ApiClient) -> None:
    """Check that each pod fits some empty node or some node pool.

    :raises AirsmithError: `unschedulable`, naming for each pod what no node offers.
    :raises ApiException: if the cluster's nodes may not be listed.
    """
    needs_by_stage = {stage: PodNeeds.of_pod(pod) for stage, pod in pods.items()}
    nodes = _nodes(client)
    pools = _node_pools(client) if any(why_no_node_fits(needs, nodes) for needs in needs_by_stage.values()) else []

    def check(stage: str, needs: PodNeeds) -> None:
        why = why_no_node_fits(needs, nodes)
        if why is not None and not any(pool_may_take(pool, needs, instance_table()) for pool in pools):
            offered = " and no Karpenter node pool creates one that does" if pools else ""
            raise AirsmithError(
                ErrorKind.UNSCHEDULABLE,
                f"No node fits the pod of stage {stage}: {why}{offered}.",
                "Add such a node or node pool; or correct backend.instance_type and backend.resources in the recipe, "
                "or the backend's node_selector and tolerations in the settings. If an autoscaler other than Karpenter "
                "creates nodes, set kubernetes.check_placement to false.",
            )

    check_all([lambda stage=stage, needs=needs: check(stage, needs) for stage, needs in needs_by_stage.items()])  # type: ignore[misc]


def why_no_node_fits(needs: PodNeeds, nodes: Sequence[k8s.V1Node]) -> str | None:
    """Why no node fits a pod; None if one does."""
    selected = [node for node in nodes if (node.metadata.labels or {}).items() >= needs.selector.items()]
    if not selected:
        labels = ", ".join(f"{key}={value}" for key, value in needs.selector.items())
        return f"none has the labels {labels}" if labels else "the cluster has no nodes"
    if needs.device is not None and not any(_offer(node, needs.device) for node in selected):
        return f"none offers {needs.device}"
    tolerated = [node for node in selected if all(needs.tolerates(_plain(taint)) for taint in node.spec.taints or ())]
    if not tolerated:
        taints = {taint.key for node in selected for taint in node.spec.taints if not needs.tolerates(_plain(taint))}
        return f"the nodes with its labels have taints that it does not tolerate ({', '.join(sorted(taints))})"
    shortages = [_shortage(node, needs.requests) for node in tolerated]
    return None if None in shortages else shortages[0]


def pool_may_take(pool: Mapping[str, Any], needs: PodNeeds, table: InstanceTable) -> bool:
    """Whether a Karpenter NodePool may create a node for a pod. If the instance table lacks its types, it may."""
    template = pool["spec"]["template"]
    spec, labels = template["spec"], template.get("metadata", {}).get("labels") or {}
    requirements = spec.get("requirements") or []
    if not all(needs.tolerates(taint) for taint in spec.get("taints") or ()):
        return False
    if needs.device is None or _names_unknown_types(requirements, table):
        return _selector_fits(needs, labels, requirements, {})
    gibibytes = float(needs.requests.get("memory", Decimal(0))) / _GIBIBYTE
    candidates = table.fitting(
        needs.device, int(needs.requests[needs.device]), float(needs.requests.get("cpu", Decimal(0))), gibibytes
    )
    return any(
        _admits(requirements, table.node_labels(name))
        and _selector_fits(needs, labels, requirements, table.node_labels(name))
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
    """The first resource of which an empty node has too little for a pod."""
    for resource, amount in requests.items():
        offered = (node.status.allocatable or {}).get(resource, "0")
        if _offer(node, resource) < amount:
            return f"it requests {resource} {amount.normalize():f}, but {node.metadata.name} offers {offered}"
    return None


def _admits(requirements: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels meets the requirements; requirements on other labels count as met."""
    return all(
        _holds(requirement["operator"], requirement.get("values") or [], labels[requirement["key"]])
        for requirement in requirements
        if requirement["key"] in labels
    )


def _holds(operator: str, values: Sequence[str], label: str) -> bool:
    if operator in ("Gt", "Lt"):
        return True  # They compare counts and sizes, which the table's labels do not contain.
    return {"In": label in values, "NotIn": label not in values, "Exists": True, "DoesNotExist": False}[operator]


def _names_unknown_types(requirements: Iterable[Mapping[str, Any]], table: InstanceTable) -> bool:
    known = {label for name in table.instances for label in table.node_labels(name).values()}
    return any(
        requirement["operator"] == "In" and not known.issuperset(requirement.get("values") or ())
        for requirement in requirements
        if requirement["key"] in (INSTANCE_TYPE_LABEL, FAMILY_LABEL)
    )


def _selector_fits(
    needs: PodNeeds,
    pool_labels: Mapping[str, str],
    requirements: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
) -> bool:
    """Whether a node of the pool has, or may have, the labels that a pod selects."""
    required = {requirement["key"]: requirement for requirement in requirements}
    for key, value in needs.selector.items():
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
