"""Count the requests of Airflow's service account to the Kubernetes API server, with a FlowSchema and its metric."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import kubernetes

from tests.cluster.airflow_identity import WORKER

METRIC = "apiserver_flowcontrol_dispatched_requests_total"


@dataclass(frozen=True)
class RequestCounter:
    """Counts the requests that match one FlowSchema."""

    schema: str

    def total(self) -> float:
        """The number of requests so far."""
        client = kubernetes.client.ApiClient()
        response = client.call_api("/metrics", "GET", auth_settings=["BearerToken"], _preload_content=False)
        lines = response.data.decode().splitlines()
        matching = (line for line in lines if line.startswith(METRIC) and f'"{self.schema}"' in line)
        return sum(float(re.split(r"\s+", line)[1]) for line in matching)


@contextmanager
def counted_requests(namespace: str) -> Iterator[RequestCounter]:
    """Count the requests of Airflow's account in a namespace while the block runs."""
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
        yield RequestCounter(name)
    finally:
        schemas.delete_flow_schema(name)
