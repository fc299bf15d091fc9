"""One start of an endpoint's server in a cluster: brought up, put to rest, woken, ended."""

from __future__ import annotations

import logging

from kubernetes.client import ApiClient

from airsmith.cluster.access import (
    annotate_if_there,
    apply,
    delete_if_there,
    find_deployment,
    optional_kinds,
    set_replicas,
)
from airsmith.cluster.manifest import OPTIONAL_KINDS, Manifest
from airsmith.cluster.secrets import api_key_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Deployment
from airsmith.serving.cluster.manifests import (
    address,
    autoscaler,
    backend_service,
    configuration_of,
    deployment,
)
from airsmith.serving.cluster.neuron import compiled_artifact
from airsmith.serving.cluster.served import ServedModel, deployment_name, longest_load
from airsmith.serving.cluster.startup import wait_until_available
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

_PAUSED = "autoscaling.keda.sh/paused-replicas"


def start(model: ServedModel, run: str, settings: Settings, client: ApiClient) -> Deployment:
    """Bring a server up and wait until it answers, under an address of its own. No request of others goes to it yet.

    :param run: path in the store of the run that asks for it.
    :raises AirsmithError: with the reason of the pod that does not come up; nothing is left of it.
    """
    namespace = settings.kubernetes.namespace
    kinds = optional_kinds(client)
    scaler = autoscaler(model, settings, kinds)
    if scaler is None and model.recipe.serve.max_replicas not in (None, model.recipe.serve.replicas):
        log.warning(
            "serve.max_replicas has no effect: this cluster has neither KEDA, with kubernetes.prometheus in the "
            "settings, nor, for a server without accelerators, a metrics server."
        )
    waiting_seconds = settings.backend(model.server.placed_as).startup_timeout_seconds + model.load_seconds
    try:
        owner = apply(deployment(model, settings, scales_itself=scaler is not None), client)
        apply(_owned(backend_service(model, settings), owner.metadata), client)
        wait_until_available(model.object_name, model.deployment, namespace, waiting_seconds, client)
        if scaler is not None:
            apply(_owned(scaler, owner.metadata), client)
    except BaseException:
        delete_if_there("Deployment", "apps/v1", model.object_name, namespace, client)
        raise
    return Deployment(
        engine=model.server.engine,
        address=address(model.object_name, namespace),
        model_name=model.model_name,
        version=model.version,
        model_uri=model.artifact,
        adapters={adapter.name: adapter.artifact for adapter in model.adapters},
        deployment=model.deployment,
        namespace=namespace,
        configuration=configuration_of(model, settings),
        replicas=model.recipe.serve.replicas,
        scales_itself=scaler is not None,
        api_key=api_key_of(model.recipe, settings),
        run=run,
        compiled=compiled_artifact(model, settings),
    )


def is_available(endpoint: str, served: Deployment, client: ApiClient) -> bool:
    """Whether a cluster runs this start of an endpoint's server, and it answers."""
    if served.namespace is None:
        return False
    found = find_deployment(deployment_name(endpoint, served.deployment), served.namespace, client)
    return found is not None and bool(found.status.available_replicas)


def rest(endpoint: str, served: Deployment, client: ApiClient) -> None:
    """End the pods of a server whose description stays, so that `wake` can start it again."""
    name, namespace = _place(endpoint, served)
    annotate_if_there("ScaledObject", OPTIONAL_KINDS["ScaledObject"], name, namespace, {_PAUSED: "0"}, client)
    set_replicas(name, namespace, 0, client)


def wake(endpoint: str, served: Deployment, client: ApiClient) -> None:
    """Start a server that rests, and wait until it answers; one that is at work goes on.

    :raises AirsmithError: with the reason of the pod that does not come up; the server rests again.
    """
    if is_available(endpoint, served, client):
        return
    name, namespace = _place(endpoint, served)
    set_replicas(name, namespace, served.replicas, client)
    annotate_if_there("ScaledObject", OPTIONAL_KINDS["ScaledObject"], name, namespace, {_PAUSED: None}, client)
    try:
        wait_until_available(name, served.deployment, namespace, longest_load(served.engine), client)
    except BaseException:
        rest(endpoint, served, client)
        raise


def resize(endpoint: str, served: Deployment, replicas: int, client: ApiClient) -> None:
    """Change how many pods a server has, and wait until that many answer; it has as many as before where they do not.

    :raises AirsmithError: `bad_recipe` where an autoscaler would change it back, `not_found` where the server is gone;
        or a pod's reason.
    """
    if served.scales_itself:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Endpoint {endpoint} scales itself, so nobody else can say how many servers it has.",
            "Change serve.replicas and serve.max_replicas in the recipe; to share traffic, name a kubernetes.gateway.",
        )
    name, namespace = _place(endpoint, served)
    found = find_deployment(name, namespace, client)
    if found is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {endpoint} has no server in the cluster.",
            "Deploy the version it is to serve.",
        )
    set_replicas(name, namespace, replicas, client)
    try:
        wait_until_available(name, served.deployment, namespace, longest_load(served.engine), client)
    except BaseException:
        set_replicas(name, namespace, found.spec.replicas, client)
        raise


def end(endpoint: str, served: Deployment, client: ApiClient) -> bool:
    """Delete a server with all that belongs to it; its pods finish the requests that they have.

    :returns: whether it was there.
    """
    if served.namespace is None:
        return False
    name, namespace = _place(endpoint, served)
    return delete_if_there("Deployment", "apps/v1", name, namespace, client)


def _place(endpoint: str, served: Deployment) -> tuple[str, str]:
    """Name and namespace of a server's Deployment."""
    assert served.namespace is not None, "a server on this machine is no Deployment"
    return deployment_name(endpoint, served.deployment), served.namespace


def _owned(manifest: Manifest, owner: object) -> Manifest:
    """The object as one that ends with its Deployment."""
    reference = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": owner.name,  # type: ignore[attr-defined]
        "uid": owner.uid,  # type: ignore[attr-defined]
    }
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}
