"""What serving asks of a cluster's API server: apply an object, find the pods and Deployments of an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import kubernetes
from kubernetes.client import ApiClient, AppsV1Api, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient

from airsmith.cluster.labels import PREFIX, label_value
from airsmith.cluster.manifest import OPTIONAL_KINDS, Manifest
from airsmith.errors import AirsmithError, ErrorKind

FIELD_MANAGER = "airsmith"
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


def cluster_client() -> ApiClient:
    """A client of the cluster that KUBECONFIG names, or whose pod this is.

    :raises AirsmithError: `not_found` where there is none.
    """
    try:
        kubernetes.config.load_config()
    except ConfigException as error:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"No cluster is configured: {error}.", "Set KUBECONFIG to the cluster's file."
        ) from error
    return ApiClient()


def apply(manifest: Manifest, client: ApiClient) -> Any:
    """Make an object be as described: a server-side apply, which leaves what others manage in it alone.

    :returns: the object as it is now.
    :raises AirsmithError: `access_denied` or `bad_recipe`, in the API server's words.
    """
    kind = DynamicClient(client).resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
    metadata = manifest["metadata"]
    with refusals_told(f"{manifest['kind']} {metadata['name']}"):
        return kind.server_side_apply(
            body=manifest,
            name=metadata["name"],
            namespace=metadata["namespace"],
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )


def delete_if_there(kind: str, api_version: str, name: str, namespace: str, client: ApiClient) -> bool:
    """Delete an object and what belongs to it.

    :returns: whether it was there.
    """
    found = _kind(kind, api_version, client)
    return found is not None and _unless_missing(
        f"the deletion of {kind} {name}",
        # Without the option an object may leave what it owns behind.
        lambda: found.delete(name=name, namespace=namespace, body={"propagationPolicy": "Background"}),
    )


def annotate_if_there(
    kind: str, api_version: str, name: str, namespace: str, annotations: Mapping[str, str | None], client: ApiClient
) -> bool:
    """Change annotations of an object; None removes one.

    :returns: whether it was there.
    """
    found = _kind(kind, api_version, client)
    body = {"metadata": {"annotations": dict(annotations)}}
    return found is not None and _unless_missing(
        f"annotations of {kind} {name}",
        lambda: found.patch(name=name, namespace=namespace, body=body, content_type="application/merge-patch+json"),
    )


def optional_kinds(client: ApiClient) -> frozenset[str]:
    """Which of the kinds that an endpoint can do without the cluster has."""
    found = DynamicClient(client).resources
    return frozenset(kind for kind, version in OPTIONAL_KINDS.items() if found.search(api_version=version, kind=kind))


def _kind(kind: str, api_version: str, client: ApiClient) -> Any:
    """What speaks of one kind of object; None where the cluster has none."""
    found = DynamicClient(client).resources.search(api_version=api_version, kind=kind)
    return found[0] if found else None


def _unless_missing(what: str, act: Callable[[], object]) -> bool:
    try:
        with refusals_told(what):
            act()
    except AirsmithError as error:
        if isinstance(error.__cause__, ApiException) and error.__cause__.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


def find_deployment(name: str, namespace: str, client: ApiClient) -> k8s.V1Deployment | None:
    """A Deployment, or None where there is none of that name."""
    try:
        return AppsV1Api(client).read_namespaced_deployment(name, namespace)
    except ApiException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def deployments_of(endpoint: str, namespace: str, client: ApiClient) -> list[k8s.V1Deployment]:
    """All Deployments of an endpoint, at work or not."""
    selector = f"{PREFIX}endpoint={label_value(endpoint)}"
    with refusals_told(f"the list of the Deployments of {endpoint}"):
        return list(AppsV1Api(client).list_namespaced_deployment(namespace, label_selector=selector).items)


def pods_of(deployment: str, namespace: str, client: ApiClient) -> list[k8s.V1Pod]:
    """The pods of one start of a server."""
    selector = f"{PREFIX}deployment={label_value(deployment)}"
    return list(CoreV1Api(client).list_namespaced_pod(namespace, label_selector=selector).items)


def set_replicas(name: str, namespace: str, replicas: int, client: ApiClient) -> None:
    """Change how many pods a Deployment has.

    :raises AirsmithError: where it is gone or the cluster refuses.
    """
    with refusals_told(f"the size of Deployment {name}"):
        AppsV1Api(client).patch_namespaced_deployment_scale(name, namespace, {"spec": {"replicas": replicas}})


@contextmanager
def refusals_told(what: str) -> Iterator[None]:
    """Raise what the API server refuses in its own words.

    :param what: names what is asked for.
    """
    try:
        yield
    except ApiException as refusal:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED if refusal.status in _REFUSED else ErrorKind.BAD_RECIPE,
            f"The cluster refuses {what}: {refusal.body or refusal.reason}",
            "See that kubernetes.namespace exists and what Airflow's service account may do in it.",
        ) from refusal
