"""The API server admits every rendered manifest: golden pods, jobs, endpoints, RBAC and network policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from airsmith.cluster.access import optional_kinds
from airsmith.cluster.manifest import OPTIONAL_KINDS
from tests.cluster import airflow_identity
from tests.cluster.installation import Cluster

AIRSMITH_TESTS = Path(__file__).parents[1] / "airsmith"
PODS = AIRSMITH_TESTS / "cluster" / "golden"
JOBS = AIRSMITH_TESTS / "cluster" / "jobs" / "golden"
ENDPOINTS = AIRSMITH_TESTS / "serving" / "cluster" / "golden"


@pytest.fixture(scope="module")
def dry_run(cluster: Cluster) -> Callable[[dict[str, Any]], None]:
    """A server-side dry run with all admission; an unknown field is an error."""
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


@pytest.mark.parametrize("backend", sorted(file.stem for file in PODS.glob("*.yaml")))
def test_golden_pods_are_admitted_under_the_restricted_standard(
    backend: str, cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]
) -> None:
    for pod in yaml.safe_load_all((PODS / f"{backend}.yaml").read_text(encoding="utf-8")):
        pod["metadata"]["namespace"] = cluster.namespace
        dry_run(pod)


@pytest.mark.parametrize("job", sorted(file.stem for file in JOBS.glob("*.yaml")))
def test_golden_jobs_are_admitted(job: str, cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]) -> None:
    try:
        for manifest in yaml.safe_load_all((JOBS / f"{job}.yaml").read_text(encoding="utf-8")):
            manifest["metadata"]["namespace"] = cluster.namespace
            if manifest["kind"] != "TrainJob":  # A dry run does not leave the runtime that its admission needs.
                dry_run(manifest)
    except ResourceNotFoundError:
        pytest.skip(f"this cluster has no controller for {job}")


@pytest.mark.parametrize("backend", sorted(file.stem for file in ENDPOINTS.glob("*.yaml")))
def test_golden_endpoints_are_admitted(
    backend: str, cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]
) -> None:
    kinds = optional_kinds(kubernetes.client.ApiClient())
    absent = set()
    for manifest in yaml.safe_load_all((ENDPOINTS / f"{backend}.yaml").read_text(encoding="utf-8")):
        if manifest["kind"] in OPTIONAL_KINDS and manifest["kind"] not in kinds:
            absent.add(manifest["kind"])
            continue
        manifest["metadata"]["namespace"] = cluster.namespace
        dry_run(manifest)
        if manifest["kind"] == "Deployment":  # Pod Security checks pods only.
            template = manifest["spec"]["template"]
            place = {"name": "server", "namespace": cluster.namespace, **template["metadata"]}
            dry_run({"apiVersion": "v1", "kind": "Pod", "metadata": place, "spec": template["spec"]})
    if absent:
        pytest.skip(f"this cluster lacks {', '.join(sorted(absent))}; all other manifests are valid")


@pytest.mark.parametrize("name", ["rbac.yaml", "network-policies.yaml"])
def test_manifests_for_kubectl_are_admitted(
    name: str, cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]
) -> None:
    for manifest in airflow_identity.manifests(name, cluster.namespace):
        dry_run(manifest)


def test_the_dry_run_detects_invalid_manifests(cluster: Cluster, dry_run: Callable[[dict[str, Any]], None]) -> None:
    pod = next(yaml.safe_load_all((PODS / "cpu.yaml").read_text(encoding="utf-8")))
    pod["metadata"]["namespace"] = cluster.namespace
    pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True  # wrong capitalization
    with pytest.raises(kubernetes.client.ApiException, match="field not declared"):
        dry_run(pod)
    del pod["spec"]["containers"][0]["securityContext"]
    with pytest.raises(kubernetes.client.ApiException, match="PodSecurity"):
        dry_run(pod)


def test_no_rule_has_a_wildcard_or_reads_secrets(cluster: Cluster) -> None:
    for manifest in airflow_identity.manifests("rbac.yaml", cluster.namespace):
        for rule in manifest.get("rules", ()):
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            assert "secrets" not in rule["resources"]
