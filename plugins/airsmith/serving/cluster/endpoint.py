"""Endpoints in a cluster: deploy a revision, shift traffic, retire old revisions, roll back, scale, stop."""

from __future__ import annotations

import logging

from kubernetes.client import ApiClient

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.store import Store
from airsmith.cluster.access import delete_if_exists, deployments_of, find_deployment
from airsmith.contracts.cache import Output
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, Revision, read_endpoint, record_canary, record_replicas
from airsmith.serving.chat import curl_command, find_endpoint
from airsmith.serving.cluster.manifests import configuration_digest
from airsmith.serving.cluster.resolve_model import resolve_served_model
from airsmith.serving.cluster.rollout import (
    delete_revision,
    is_available,
    resume_revision,
    scale_revision,
    scale_to_zero,
    start_revision,
)
from airsmith.serving.cluster.served_model import ServedModel, deployment_name
from airsmith.serving.cluster.traffic import (
    ALL_TRAFFIC,
    TrafficShare,
    delete_routing,
    remove_canary,
    route_all,
    route_share,
)
from airsmith.settings import Settings

log = logging.getLogger("airsmith")


def deploy(run: Run, settings: Settings, client: ApiClient, share: TrafficShare = ALL_TRAFFIC) -> StagePointer:
    """Serve the run's model at the recipe's endpoint; a revision with the same configuration is reused.

    The previous revision keeps running until `retire_old_revisions` or `roll_back`.

    :param client: client of the cluster.
    :param share: share of the requests for the new revision; below 100 percent it becomes a canary.
    :raises AirsmithError: if the revision does not become available; the endpoint's routing then stays unchanged.
    """
    with recorded_stage("deploy", run) as record:
        name = run.read_spec().recipe.endpoint_name
        endpoint = read_endpoint(run.store, name)
        model = resolve_served_model(run, endpoint)
        reused = _matching_revision(model, endpoint, settings, client) if endpoint is not None else None
        if reused is not None:
            log.info("Endpoint %s already has a revision with this model and configuration.", name)
        revision = reused or start_revision(model, run.path, settings, client)
        try:
            if model.adapters:
                _check_unchanged(run.store, endpoint, name)
            updated = _route_traffic(run.store, name, revision, endpoint, share, settings, client)
        except BaseException:
            if reused is None:
                delete_revision(name, revision, client)
            raise
        log.info("Endpoint %s is ready. From any machine with access: airsmith chat %s", name, name)
        log.info("Inside the cluster:\n%s", curl_command(updated))
        return record.finish(endpoint_output(updated, revision.id), cached=reused is not None)


def shift_traffic(store: Store, name: str, share: TrafficShare, settings: Settings, client: ApiClient) -> Endpoint:
    """Change the share of an endpoint's canary: 0 percent deletes the canary, 100 percent makes it current.

    The previous revision keeps running until `retire_old_revisions` or `roll_back`.

    :raises AirsmithError: `not_found` if the endpoint has no canary.
    """
    endpoint = _cluster_endpoint(store, name)
    canary = endpoint.canary
    if canary is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {name} has no canary.",
            "Deploy a second version with a share below 100 percent first.",
        )
    if share.percent == 0:
        return remove_canary(store, endpoint, settings, client)
    return _route_traffic(store, name, canary, endpoint, share, settings, client)


def retire_old_revisions(store: Store, name: str, client: ApiClient) -> None:
    """Scale the previous revision to zero, so that `roll_back` can resume it, and delete all older ones.

    Called after the smoke test has verified the current revision.
    """
    endpoint = read_endpoint(store, name)
    if endpoint is None or endpoint.current.namespace is None:
        return
    namespace = endpoint.current.namespace
    target = _rollback_target(endpoint, client)
    serving = {deployment_name(name, found.id) for found in (endpoint.current, endpoint.canary) if found is not None}
    for deployment in deployments_of(name, namespace, client):
        known = deployment.metadata.name
        if target is not None and known == deployment_name(name, target.id):
            if deployment.spec.replicas:
                log.info("Scaling version %s to zero; a rollback starts it again.", target.version)
                scale_to_zero(name, target, client)
        elif known not in serving:
            delete_if_exists("Deployment", "apps/v1", known, namespace, client)


def roll_back(store: Store, name: str, settings: Settings, client: ApiClient, failed: str | None = None) -> Endpoint:
    """Make the previous revision current and delete the current one; if the endpoint has a canary, delete only that.

    :param failed: id of the revision to roll back from; None rolls back from the newest one.
    :raises AirsmithError: `not_found` if the cluster has no previous revision, or the failed revision no longer serves
        requests; the endpoint then stays unchanged.
    """
    endpoint = _cluster_endpoint(store, name)
    current = endpoint.current
    if failed is not None and endpoint.find(failed) is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {name} no longer serves revision {failed}.",
            "No rollback is needed: another deploy has replaced the revision.",
        )
    if endpoint.canary is not None and failed != current.id:
        log.warning("Rolling back the canary of endpoint %s; version %s serves all requests.", name, current.version)
        return remove_canary(store, endpoint, settings, client)
    target = _rollback_target(endpoint, client)
    if target is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"The cluster has no previous revision of endpoint {name}.",
            "Deploy the version that the endpoint must serve.",
        )
    log.warning("Rolling back endpoint %s from version %s to version %s.", name, current.version, target.version)
    resume_revision(name, target, client)
    restored = route_all(store, name, target, settings, client)
    for replaced in (endpoint.canary, current):
        if replaced is not None:
            delete_revision(name, replaced, client)
    if not target.autoscaled:  # The cluster may have had too few nodes while both revisions ran.
        scale_revision(name, target, target.replicas, client)
    return restored


def scale(store: Store, name: str, replicas: int, client: ApiClient) -> Endpoint:
    """Set the number of an endpoint's replicas and wait until all are available; undone if they do not become so.

    :raises AirsmithError: `bad_recipe` if the endpoint is autoscaled or has a canary; or the reason of a pod that does
        not start.
    """
    endpoint = _cluster_endpoint(store, name)
    if endpoint.canary is not None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Endpoint {name} cannot be scaled to {replicas} replicas while it has a canary.",
            "Shift the traffic to 0 or 100 percent first.",
        )
    scale_revision(name, endpoint.current, replicas, client)
    return record_replicas(store, name, replicas, expected=endpoint.current.id)


def stop(store: Store, name: str, client: ApiClient) -> bool:
    """Delete all objects of an endpoint in the cluster. Its record stays, for the history.

    :returns: whether any revision existed.
    """
    endpoint = find_endpoint(store, name)
    namespace = endpoint.current.namespace
    if namespace is None:
        return False
    delete_routing(name, namespace, client)
    deployments = deployments_of(name, namespace, client)
    for deployment in deployments:
        delete_if_exists("Deployment", "apps/v1", deployment.metadata.name, namespace, client)
    if endpoint.canary is not None:
        record_canary(store, name, None, 0)
    return bool(deployments)


def endpoint_output(endpoint: Endpoint, revision_id: str, change: str | None = None) -> Output:
    """The output of `deploy`: a revision that serves requests of an endpoint.

    :param change: digest of the change that routed requests to the revision, if that was not its deploy; the smoke
        test then runs again.
    """
    revision = endpoint.find(revision_id)
    assert revision is not None, "the endpoint routes requests to this revision"
    return Output(
        ArtifactType.ENDPOINT,
        change or revision_id,
        endpoint_path(endpoint.name),
        True,
        {
            "endpoint": endpoint.name,
            "address": revision.address,
            "model_name": revision.model_name,
            "revision": revision_id,
        },
    )


def _route_traffic(
    store: Store,
    name: str,
    revision: Revision,
    endpoint: Endpoint | None,
    share: TrafficShare,
    settings: Settings,
    client: ApiClient,
) -> Endpoint:
    """Route the requested share to an available revision; any other canary is deleted."""
    if endpoint is not None and revision.id == endpoint.current.id:
        return endpoint
    if endpoint is None or share.percent == 100 or not is_available(name, endpoint.current, client):
        if not revision.autoscaled:  # As a canary it may have had fewer replicas.
            scale_revision(name, revision, revision.replicas, client)
        updated = route_all(store, name, revision, settings, client)
        if endpoint is not None and endpoint.canary not in (None, revision):
            delete_revision(name, endpoint.canary, client)
        return updated
    if endpoint.canary != revision:
        endpoint = remove_canary(store, endpoint, settings, client)
    return route_share(store, endpoint, revision, share, settings, client)


def _matching_revision(
    model: ServedModel, endpoint: Endpoint, settings: Settings, client: ApiClient
) -> Revision | None:
    """The available revision of an endpoint with the configuration of a model, or None."""
    configuration = configuration_digest(model, settings)
    for revision in (endpoint.current, endpoint.canary):
        if revision is None or revision.configuration != configuration:
            continue
        if is_available(endpoint.name, revision, client):
            return revision
    return None


def _check_unchanged(store: Store, endpoint: Endpoint | None, name: str) -> None:
    """Check that no other recipe has deployed an adapter to the endpoint since it was read.

    :raises AirsmithError: `interrupted`, which is retried immediately and then includes the other adapter.
    """
    now = read_endpoint(store, name)
    if (now.current.id if now else None) != (endpoint.current.id if endpoint else None):
        raise AirsmithError(
            ErrorKind.INTERRUPTED, f"Another recipe has deployed to endpoint {name} in the meantime.", "Deploy again."
        )


def _cluster_endpoint(store: Store, name: str) -> Endpoint:
    """The endpoint with this name.

    :raises AirsmithError: `not_found` if it does not exist, or a local process serves it.
    """
    endpoint = find_endpoint(store, name)
    if endpoint.current.namespace is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {name} at {endpoint.current.address} is a local process, not a Deployment in the cluster.",
            "Deploy to it from the cluster's Airflow first.",
        )
    return endpoint


def _rollback_target(endpoint: Endpoint, client: ApiClient) -> Revision | None:
    """The newest previous revision whose Deployment still exists."""
    for revision in reversed(endpoint.history):
        if revision.namespace is None or endpoint.find(revision.id) is not None:
            continue
        if find_deployment(deployment_name(endpoint.name, revision.id), revision.namespace, client) is not None:
            return revision
    return None
