"""Airflow's service account, with exactly the rights of `manifests/rbac.yaml`."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import yaml

MANIFESTS = Path(__file__).parents[2] / "manifests"
WORKER = "airflow-worker"
TOKEN_SECONDS = 7200


def manifests(name: str, namespace: str) -> Iterator[dict[str, Any]]:
    """The objects of a file in `manifests/`, for a namespace that holds both pods and Airflow."""
    for manifest in yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8")):
        if "namespace" in manifest["metadata"]:
            manifest["metadata"]["namespace"] = namespace
        else:  # Cluster-scoped objects: unique names separate test runs.
            manifest["metadata"]["name"] += f"-{namespace}"
        for subject in manifest.get("subjects", ()):
            subject["namespace"] = namespace
        if manifest.get("roleRef", {}).get("kind") == "ClusterRole":
            manifest["roleRef"]["name"] += f"-{namespace}"
        yield manifest


def grant(namespace: str) -> None:
    """Create Airflow's service account and grant its rights."""
    kubernetes.client.CoreV1Api().create_namespaced_service_account(namespace, {"metadata": {"name": WORKER}})
    kubernetes.utils.create_from_yaml(
        kubernetes.client.ApiClient(), yaml_objects=list(manifests("rbac.yaml", namespace))
    )


def withdraw(namespace: str) -> None:
    """Delete the cluster-scoped objects, which remain when the namespace is deleted."""
    rbac = kubernetes.client.RbacAuthorizationV1Api()
    for manifest in manifests("rbac.yaml", namespace):
        if manifest["kind"] == "ClusterRole":
            rbac.delete_cluster_role(manifest["metadata"]["name"])
        elif manifest["kind"] == "ClusterRoleBinding":
            rbac.delete_cluster_role_binding(manifest["metadata"]["name"])


def kubeconfig(namespace: str, folder: Path) -> Path:
    """A kubeconfig for Airflow's service account."""
    answer = kubernetes.client.CoreV1Api().create_namespaced_service_account_token(
        WORKER, namespace, {"spec": {"expirationSeconds": TOKEN_SECONDS}}
    )
    admin = kubernetes.client.Configuration.get_default_copy()
    authority = base64.b64encode(Path(admin.ssl_ca_cert).read_bytes()).decode()
    named = {"cluster": "test", "user": WORKER, "namespace": namespace}
    file = folder / "airflow.kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": "test", "cluster": {"server": admin.host, "certificate-authority-data": authority}}
                ],
                "users": [{"name": WORKER, "user": {"token": answer.status.token}}],
                "contexts": [{"name": "test", "context": named}],
                "current-context": "test",
            }
        )
    )
    file.chmod(0o600)
    return file
