"""A real API server takes what is rendered without one: golden pods, endpoints, rights and network policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import airflow_identity
import kubernetes
import pytest
import yaml
from conftest import Cluster

GOLDEN = Path(__file__).parents[1] / "airsmith" / "runtimes" / "golden"


@pytest.fixture(scope="module")
def dry_run(cluster: Cluster) -> Callable[[dict[str, Any]], None]:
    """The server's own check of an object, with all admission; a field that it does not know is an error."""
    client = kubernetes.client.ApiClient()
    dynamic = kubernetes.dynamic.DynamicClient(client)

    def check(manifest: dict[str, Any]) -> None:
        kind = dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        client.call_api(
            kind.path(manifest["metadata"]["name"], cluster.namespace if kind.namespaced else None),
            "PATCH",
            query_params=[
                ("dryRun", "All"),
                ("fieldValidation", "Strict"),
                ("fieldManager", "test"),
                ("force", "true"),
            ],
            header_params={"Content-Type": "application/apply-patch+yaml"},
            body=manifest,
            response_types_map={},
            auth_settings=["BearerToken"],
        )

    return check


@pytest.mark.parametrize("backend", sorted(file.stem for file in GOLDEN.glob("*.yaml")))
def test_golden_pods_are_admitted_under_the_restricted_standard(
    backend: str, cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]
) -> None:
    for pod in yaml.safe_load_all((GOLDEN / f"{backend}.yaml").read_text(encoding="utf-8")):
        pod["metadata"]["namespace"] = cluster.namespace
        dry_run(pod)


@pytest.mark.parametrize("name", ["rbac.yaml", "network-policies.yaml"])
def test_what_is_applied_by_hand_is_valid(
    name: str, cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]
) -> None:
    for manifest in airflow_identity.manifests(name, cluster.namespace):
        dry_run(manifest)


def test_what_the_server_refuses_is_seen(cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]) -> None:
    pod = next(yaml.safe_load_all((GOLDEN / "cpu.yaml").read_text(encoding="utf-8")))
    pod["metadata"]["namespace"] = cluster.namespace
    pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True  # a capital too many
    with pytest.raises(kubernetes.client.ApiException, match="field not declared"):
        dry_run(pod)
    del pod["spec"]["containers"][0]["securityContext"]
    with pytest.raises(kubernetes.client.ApiException, match="PodSecurity"):
        dry_run(pod)


def test_no_right_is_a_wildcard_or_reads_secrets(cluster: Cluster) -> None:
    for manifest in airflow_identity.manifests("rbac.yaml", cluster.namespace):
        for rule in manifest.get("rules", ()):
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            assert "secrets" not in rule["resources"]
