"""Requests to a cluster's API server: apply, delete and annotate objects; find an endpoint's pods and Deployments."""

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
    """A client of the cluster that KUBECONFIG names, or in which this process runs.

    :raises AirsmithError: `not_found` if no cluster is configured.
    """
    try:
        kubernetes.config.load_config()
    except ConfigException as error:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"No cluster is configured: {error}.",
            "Set KUBECONFIG to a kubeconfig file.",
        ) from error
    return ApiClient()


def apply(manifest: Manifest, client: ApiClient) -> Any:
    """Create or update an object by server-side apply, which leaves the fields of other managers unchanged.

    :returns: the object as stored.
    :raises AirsmithError: `access_denied` or `bad_recipe`, with the API server's message.
    """
    kind = DynamicClient(client).resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
    metadata = manifest["metadata"]
    with api_errors_in_words(f"{manifest['kind']} {metadata['name']}"):
        return kind.server_side_apply(
            body=manifest,
            name=metadata["name"],
            namespace=metadata["namespace"],
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )


def delete_if_exists(kind: str, api_version: str, name: str, namespace: str, client: ApiClient) -> bool:
    """Delete an object and its dependents.

    :returns: whether it existed.
    """
    found = _kind(kind, api_version, client)
    return found is not None and _unless_missing(
        f"the deletion of {kind} {name}",
        # Without the option some kinds orphan their dependents.
        lambda: found.delete(name=name, namespace=namespace, body={"propagationPolicy": "Background"}),
    )


def annotate_if_exists(
    kind: str, api_version: str, name: str, namespace: str, annotations: Mapping[str, str | None], client: ApiClient
) -> bool:
    """Change annotations of an object; None removes one.

    :returns: whether the object exists.
    """
    found = _kind(kind, api_version, client)
    body = {"metadata": {"annotations": dict(annotations)}}
    return found is not None and _unless_missing(
        f"annotations of {kind} {name}",
        lambda: found.patch(name=name, namespace=namespace, body=body, content_type="application/merge-patch+json"),
    )


def optional_kinds(client: ApiClient) -> frozenset[str]:
    """The optional kinds of an endpoint's objects that this cluster supports."""
    found = DynamicClient(client).resources
    return frozenset(kind for kind, version in OPTIONAL_KINDS.items() if found.search(api_version=version, kind=kind))


def _kind(kind: str, api_version: str, client: ApiClient) -> Any:
    """The dynamic client's resource of a kind; None if the cluster does not support it."""
    found = DynamicClient(client).resources.search(api_version=api_version, kind=kind)
    return found[0] if found else None


def _unless_missing(what: str, act: Callable[[], object]) -> bool:
    try:
        with api_errors_in_words(what):
            act()
    except AirsmithError as error:
        if isinstance(error.__cause__, ApiException) and error.__cause__.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


def find_deployment(name: str, namespace: str, client: ApiClient) -> k8s.V1Deployment | None:
    """The Deployment of this name, or None."""
    try:
        return AppsV1Api(client).read_namespaced_deployment(name, namespace)
    except ApiException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def deployments_of(endpoint: str, namespace: str, client: ApiClient) -> list[k8s.V1Deployment]:
    """All Deployments of an endpoint, those scaled to zero included."""
    selector = f"{PREFIX}endpoint={label_value(endpoint)}"
    with api_errors_in_words(f"the list of the Deployments of {endpoint}"):
        return list(AppsV1Api(client).list_namespaced_deployment(namespace, label_selector=selector).items)


def pods_of(revision_id: str, namespace: str, client: ApiClient) -> list[k8s.V1Pod]:
    """The pods of a revision of an endpoint."""
    selector = f"{PREFIX}revision={label_value(revision_id)}"
    return list(CoreV1Api(client).list_namespaced_pod(namespace, label_selector=selector).items)


def set_replicas(name: str, namespace: str, replicas: int, client: ApiClient) -> None:
    """Set the number of a Deployment's replicas.

    :raises AirsmithError: if it does not exist or the cluster rejects the change.
    """
    with api_errors_in_words(f"the size of Deployment {name}"):
        AppsV1Api(client).patch_namespaced_deployment_scale(name, namespace, {"spec": {"replicas": replicas}})


@contextmanager
def api_errors_in_words(what: str) -> Iterator[None]:
    """Turn an error of the API server into an AirsmithError with the server's message.

    :param what: names the request.
    """
    try:
        yield
    except ApiException as refusal:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED if refusal.status in _REFUSED else ErrorKind.BAD_RECIPE,
            f"The cluster rejects {what}: {refusal.body or refusal.reason}",
            "Check that kubernetes.namespace exists and what Airflow's service account may do in it.",
        ) from refusal
