"""A Kueue queue with quota for one training, for the duration of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import kubernetes

from tests.cluster.installation import Cluster, is_served

GROUP = ("kueue.x-k8s.io", "v1beta1")
QUEUE = "trainings"
TRAINING_CPU = "500m"


@dataclass(frozen=True)
class Queue:
    """A LocalQueue and its priorities.

    :param high, highest: WorkloadPriorityClasses; a workload preempts those of lower or no priority.
    """

    cluster: Cluster
    high: str
    highest: str

    def fill(self, name: str, image: str, priority: str) -> None:
        """Use up the quota with a pod that runs until it is deleted."""
        labels = {"kueue.x-k8s.io/queue-name": QUEUE, "kueue.x-k8s.io/priority-class": priority}
        container = {
            "name": "base",
            "image": image,
            "command": ["sleep", "infinity"],
            "resources": {"requests": {"cpu": TRAINING_CPU}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        self.cluster.core.create_namespaced_pod(
            self.cluster.namespace,
            {
                "metadata": {"name": name, "labels": labels},
                "spec": {
                    "containers": [container],
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 0,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                },
            },
        )


def is_installed() -> bool:
    """Whether the cluster has Kueue."""
    return is_served(*GROUP, "clusterqueues")


@contextmanager
def queue(cluster: Cluster) -> Iterator[Queue]:
    """Create a LocalQueue with its own ClusterQueue, flavor and priorities."""
    api, own = kubernetes.client.CustomObjectsApi(), cluster.namespace
    queue = Queue(cluster, high=f"{own}-high", highest=f"{own}-highest")
    whole = [
        ("resourceflavors", _object(own, kind="ResourceFlavor")),
        ("workloadpriorityclasses", _object(queue.high, kind="WorkloadPriorityClass", value=1000)),
        ("workloadpriorityclasses", _object(queue.highest, kind="WorkloadPriorityClass", value=2000)),
        ("clusterqueues", _object(own, kind="ClusterQueue", spec=_cluster_queue(own))),
    ]
    with ExitStack() as made:
        for plural, content in whole:
            api.create_cluster_custom_object(*GROUP, plural, content)
            made.callback(api.delete_cluster_custom_object, *GROUP, plural, content["metadata"]["name"])
        local = _object(QUEUE, kind="LocalQueue", spec={"clusterQueue": own})
        api.create_namespaced_custom_object(*GROUP, own, "localqueues", local)
        yield queue


def _cluster_queue(namespace: str) -> dict[str, Any]:
    quotas = {"cpu": TRAINING_CPU, "memory": "100Gi", "ephemeral-storage": "1000Gi"}
    resources = [{"name": name, "nominalQuota": quota} for name, quota in quotas.items()]
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [
            {"coveredResources": list(quotas), "flavors": [{"name": namespace, "resources": resources}]}
        ],
    }


def _object(name: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": "/".join(GROUP), "metadata": {"name": name}, **content}
