"""How many requests Airflow's service account has sent to the API server: the server's own count, by a flow schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import kubernetes

from tests.cluster.airflow_identity import WORKER

METRIC = "apiserver_flowcontrol_dispatched_requests_total"


@dataclass(frozen=True)
class Requests:
    """The requests that one flow schema has taken."""

    schema: str

    def total(self) -> float:
        """How many there have been so far."""
        client = kubernetes.client.ApiClient()
        answer = client.call_api("/metrics", "GET", auth_settings=["BearerToken"], _preload_content=False)
        lines = answer.data.decode().splitlines()
        mine = (line for line in lines if line.startswith(METRIC) and f'"{self.schema}"' in line)
        return sum(float(re.split(r"\s+", line)[1]) for line in mine)


@contextmanager
def counted_requests(namespace: str) -> Iterator[Requests]:
    """Count what Airflow's account in a namespace asks, as long as the block lasts."""
    schemas = kubernetes.client.FlowcontrolApiserverV1Api()
    name = f"airsmith-{namespace}"
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
    rule = {
        "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": WORKER, "namespace": namespace}}],
        "resourceRules": [everything],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }
    spec = {"matchingPrecedence": 500, "priorityLevelConfiguration": {"name": "workload-low"}, "rules": [rule]}
    schemas.create_flow_schema({"metadata": {"name": name}, "spec": spec})
    try:
        yield Requests(name)
    finally:
        schemas.delete_flow_schema(name)
