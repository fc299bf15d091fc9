"""One revision of an endpoint in a cluster: start, scale to zero, resume, scale, delete."""

from __future__ import annotations

import logging

from kubernetes.client import ApiClient

from airsmith.cluster.access import (
    annotate_if_exists,
    apply,
    delete_if_exists,
    find_deployment,
    optional_kinds,
    set_replicas,
)
from airsmith.cluster.manifest import OPTIONAL_KINDS, Manifest
from airsmith.cluster.secrets import api_key_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Revision
from airsmith.serving.cluster.manifests import (
    autoscaler,
    configuration_digest,
    deployment,
    revision_service,
    service_url,
)
from airsmith.serving.cluster.neuron import compiled_artifact
from airsmith.serving.cluster.served_model import ServedModel, deployment_name, max_load_seconds
from airsmith.serving.cluster.startup import wait_until_available
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

_PAUSED = "autoscaling.keda.sh/paused-replicas"


def start_revision(model: ServedModel, run: str, settings: Settings, client: ApiClient) -> Revision:
    """Start a revision and wait until it is available at its own address. The endpoint does not route to it yet.

    :param run: path in the store of the run that deploys it.
    :raises AirsmithError: with the reason of the pod that does not start; the revision's objects are deleted.
    """
    namespace = settings.kubernetes.namespace
    kinds = optional_kinds(client)
    scaler = autoscaler(model, settings, kinds)
    if scaler is None and model.recipe.serve.max_replicas not in (None, model.recipe.serve.replicas):
        log.warning(
            "serve.max_replicas has no effect: autoscaling requires KEDA and the setting kubernetes.prometheus, or, "
            "for a server without devices, a metrics server."
        )
    timeout_seconds = settings.backend(model.server.placement_backend).startup_timeout_seconds + model.load_seconds
    try:
        owner = apply(deployment(model, settings, autoscaled=scaler is not None), client)
        apply(_owned(revision_service(model, settings), owner.metadata), client)
        wait_until_available(model.object_name, model.revision, namespace, timeout_seconds, client)
        if scaler is not None:
            apply(_owned(scaler, owner.metadata), client)
    except BaseException:
        delete_if_exists("Deployment", "apps/v1", model.object_name, namespace, client)
        raise
    return Revision(
        id=model.revision,
        engine=model.server.engine,
        address=service_url(model.object_name, namespace),
        model_name=model.model_name,
        version=model.version,
        model_uri=model.artifact,
        adapters={adapter.name: adapter.artifact for adapter in model.adapters},
        namespace=namespace,
        configuration=configuration_digest(model, settings),
        replicas=model.recipe.serve.replicas,
        autoscaled=scaler is not None,
        api_key=api_key_of(model.recipe, settings),
        run=run,
        compiled=compiled_artifact(model, settings),
    )


def is_available(endpoint: str, revision: Revision, client: ApiClient) -> bool:
    """Whether at least one pod of a revision is available."""
    if revision.namespace is None:
        return False
    found = find_deployment(deployment_name(endpoint, revision.id), revision.namespace, client)
    return found is not None and bool(found.status.available_replicas)


def scale_to_zero(endpoint: str, revision: Revision, client: ApiClient) -> None:
    """Delete the pods of a revision and keep its Deployment, so that `resume_revision` can start it again."""
    name, namespace = _deployment_of(endpoint, revision)
    annotate_if_exists("ScaledObject", OPTIONAL_KINDS["ScaledObject"], name, namespace, {_PAUSED: "0"}, client)
    set_replicas(name, namespace, 0, client)


def resume_revision(endpoint: str, revision: Revision, client: ApiClient) -> None:
    """Start a revision that is scaled to zero, and wait until it is available; a running one is left unchanged.

    :raises AirsmithError: with the reason of the pod that does not start; the revision is scaled to zero again.
    """
    if is_available(endpoint, revision, client):
        return
    name, namespace = _deployment_of(endpoint, revision)
    set_replicas(name, namespace, revision.replicas, client)
    annotate_if_exists("ScaledObject", OPTIONAL_KINDS["ScaledObject"], name, namespace, {_PAUSED: None}, client)
    try:
        wait_until_available(name, revision.id, namespace, max_load_seconds(revision.engine), client)
    except BaseException:
        scale_to_zero(endpoint, revision, client)
        raise


def scale_revision(endpoint: str, revision: Revision, replicas: int, client: ApiClient) -> None:
    """Set the number of a revision's pods and wait until all are available; undone if they do not become available.

    :raises AirsmithError: `bad_recipe` if the revision is autoscaled, `not_found` if its Deployment does not exist, or
        the reason of a pod that does not start.
    """
    if revision.autoscaled:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Endpoint {endpoint} is autoscaled, so its number of replicas cannot be set.",
            "Change serve.replicas and serve.max_replicas in the recipe; to split traffic, set kubernetes.gateway.",
        )
    name, namespace = _deployment_of(endpoint, revision)
    found = find_deployment(name, namespace, client)
    if found is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {endpoint} has no Deployment {name} in namespace {namespace}.",
            "Deploy the version again.",
        )
    set_replicas(name, namespace, replicas, client)
    try:
        wait_until_available(name, revision.id, namespace, max_load_seconds(revision.engine), client)
    except BaseException:
        set_replicas(name, namespace, found.spec.replicas, client)
        raise


def delete_revision(endpoint: str, revision: Revision, client: ApiClient) -> bool:
    """Delete a revision's Deployment and its dependents; the pods first complete the requests in flight.

    :returns: whether the Deployment existed.
    """
    if revision.namespace is None:
        return False
    name, namespace = _deployment_of(endpoint, revision)
    return delete_if_exists("Deployment", "apps/v1", name, namespace, client)


def _deployment_of(endpoint: str, revision: Revision) -> tuple[str, str]:
    """Name and namespace of a revision's Deployment."""
    assert revision.namespace is not None, "a local revision has no Deployment"
    return deployment_name(endpoint, revision.id), revision.namespace


def _owned(manifest: Manifest, owner: object) -> Manifest:
    """The object with an owner reference, so that Kubernetes deletes it with its Deployment."""
    reference = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": owner.name,  # type: ignore[attr-defined]
        "uid": owner.uid,  # type: ignore[attr-defined]
    }
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}
