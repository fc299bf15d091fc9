"""Endpoints in a cluster: deploy beside what is served, share traffic, settle, roll back, scale, stop."""

from __future__ import annotations

import logging

from kubernetes.client import ApiClient

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.store import Store
from airsmith.cluster.access import delete_if_there, deployments_of, find_deployment
from airsmith.contracts.cache import Output
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Deployment, Endpoint, read_endpoint, resize_endpoint, share_endpoint
from airsmith.serving.chat import curl_line, find_endpoint
from airsmith.serving.cluster.manifests import configuration_of
from airsmith.serving.cluster.rollout import end, is_available, resize, rest, start, wake
from airsmith.serving.cluster.served import ServedModel, deployment_name
from airsmith.serving.cluster.served_model import model_to_serve
from airsmith.serving.cluster.traffic import ALL, Share, close, share, turn_to, withdraw_candidate
from airsmith.settings import Settings

log = logging.getLogger("airsmith")


def deploy(run: Run, settings: Settings, client: ApiClient, wanted: Share = ALL) -> StagePointer:
    """Serve the run's model at the recipe's endpoint; what serves it already goes on.

    What was served before stays at work until `settle` or `roll_back` decides.

    :param client: of the cluster.
    :param wanted: share of the requests that it takes; less than all of them beside what is served.
    :raises AirsmithError: where the server does not come up; the endpoint then answers as before.
    """
    with recorded_stage("deploy", run) as record:
        name = run.read_spec().recipe.endpoint_name
        current = read_endpoint(run.store, name)
        model = model_to_serve(run, current)
        serving = _server_of(model, current, settings, client) if current is not None else None
        if serving is not None:
            log.info("Endpoint %s has a server with this model already.", name)
        server = serving or start(model, run.path, settings, client)
        try:
            if model.adapters:
                _check_unchanged(run.store, current, name)
            endpoint = _let_in(run.store, name, server, current, wanted, settings, client)
        except BaseException:
            if serving is None:
                end(name, server, client)
            raise
        log.info("Endpoint %s is up. From anywhere: airsmith chat %s", name, name)
        log.info("Inside the cluster:\n%s", curl_line(endpoint))
        return record.finish(endpoint_output(endpoint, server.deployment), cached=serving is not None)


def shift_traffic(store: Store, name: str, wanted: Share, settings: Settings, client: ApiClient) -> Endpoint:
    """Change the share of the version beside the one that an endpoint serves: 0 withdraws it, 100 lets it take over.

    What was served before stays at work until `settle` or `roll_back` decides.

    :raises AirsmithError: `not_found` where no version is beside it.
    """
    endpoint = _in_cluster(store, name)
    candidate = endpoint.candidate
    if candidate is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {name} serves one version alone.",
            "Deploy another one beside it first, with a share below 100.",
        )
    if wanted.percent == 0:
        return withdraw_candidate(store, endpoint, settings, client)
    return _let_in(store, name, candidate, endpoint, wanted, settings, client)


def settle(store: Store, name: str, client: ApiClient) -> None:
    """Let what an endpoint served before rest, once what it serves now is proved.

    The one before keeps its description in the cluster, without a pod, for `roll_back`; older ones are deleted.
    """
    endpoint = read_endpoint(store, name)
    if endpoint is None or endpoint.namespace is None:
        return
    current = {started.deployment for started in (endpoint, endpoint.candidate) if started is not None}
    kept = _newest_kept(endpoint, client)
    stay = {deployment_name(name, deployment) for deployment in current}
    for found in deployments_of(name, endpoint.namespace, client):
        known = found.metadata.name
        if kept is not None and known == deployment_name(name, kept.deployment):
            if found.spec.replicas:
                log.info("Version %s rests; rolling back starts it again.", kept.version)
                rest(name, kept, client)
        elif known not in stay:
            delete_if_there("Deployment", "apps/v1", known, endpoint.namespace, client)


def roll_back(store: Store, name: str, settings: Settings, client: ApiClient, failed: str | None = None) -> Endpoint:
    """Serve what was served before and end what is served now; a version beside it is withdrawn, no more.

    :param failed: id of the server to go back from; None goes back from whatever came last.
    :raises AirsmithError: `not_found` where the cluster holds nothing to go back to, or the failed server has no
        requests any more; the endpoint then stays as it is.
    """
    endpoint = _in_cluster(store, name)
    if failed is not None and endpoint.find(failed) is None:
        raise AirsmithError(ErrorKind.NOT_FOUND, f"Endpoint {name} has come to serve something else meanwhile.")
    if endpoint.candidate is not None and failed != endpoint.deployment:
        log.warning("Endpoint %s goes on with version %s alone.", name, endpoint.version)
        return withdraw_candidate(store, endpoint, settings, client)
    before = _newest_kept(endpoint, client)
    if before is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"The cluster holds nothing that endpoint {name} served before.",
            "Deploy the version that it should serve.",
        )
    log.warning("Endpoint %s goes back from version %s to version %s.", name, endpoint.version, before.version)
    wake(name, before, client)
    restored = turn_to(store, name, before, settings, client)
    for gone in (endpoint.candidate, endpoint):
        if gone is not None:
            end(name, gone, client)
    if not before.scales_itself:  # Only now is there room for as many as it had.
        resize(name, before, before.replicas, client)
    return restored


def scale(store: Store, name: str, replicas: int, client: ApiClient) -> Endpoint:
    """Change how many servers an endpoint has, and wait for them; where they do not come up it has as many as before.

    :raises AirsmithError: `bad_recipe` where it scales itself or shares its traffic; or the reason of a pod.
    """
    endpoint = _in_cluster(store, name)
    if endpoint.candidate is not None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Endpoint {name} cannot have {replicas} servers while two versions share its traffic.",
            "Let one of them serve alone first: shift the traffic to 0 or 100 percent.",
        )
    resize(name, endpoint, replicas, client)
    return resize_endpoint(store, name, replicas, of=endpoint.deployment)


def stop(store: Store, name: str, client: ApiClient) -> bool:
    """End an endpoint in the cluster, with all versions that it holds. Its record stays, for the history.

    :returns: whether anything was there.
    """
    endpoint = find_endpoint(store, name)
    namespace = endpoint.namespace
    if namespace is None:
        return False
    close(name, namespace, client)
    standing = deployments_of(name, namespace, client)
    for found in standing:
        delete_if_there("Deployment", "apps/v1", found.metadata.name, namespace, client)
    if endpoint.candidate is not None:
        share_endpoint(store, name, None, 0)
    return bool(standing)


def endpoint_output(endpoint: Endpoint, deployment: str, change: str | None = None) -> Output:
    """What `deploy` has made: a server that answers an endpoint's requests, or a share of them.

    :param deployment: id of the server.
    :param change: what gave it its requests, where it was not its start: it is proved anew.
    """
    server = endpoint.find(deployment)
    assert server is not None, "the endpoint has just been given this server"
    return Output(
        ArtifactType.ENDPOINT,
        change or deployment,
        endpoint_path(endpoint.name),
        True,
        {
            "endpoint": endpoint.name,
            "address": server.address,
            "model_name": server.model_name,
            "deployment": deployment,
        },
    )


def _let_in(
    store: Store,
    name: str,
    server: Deployment,
    current: Endpoint | None,
    wanted: Share,
    settings: Settings,
    client: ApiClient,
) -> Endpoint:
    """Give a server that is up its requests; another candidate ends."""
    if current is not None and server.deployment == current.deployment:
        return current
    if current is None or wanted.percent == 100 or not is_available(name, current, client):
        if not server.scales_itself:  # Its share may have made it smaller.
            resize(name, server, server.replicas, client)
        endpoint = turn_to(store, name, server, settings, client)
        if current is not None and current.candidate not in (None, server):
            end(name, current.candidate, client)
        return endpoint
    alone = current if current.candidate == server else withdraw_candidate(store, current, settings, client)
    return share(store, alone, server, wanted, settings, client)


def _server_of(model: ServedModel, endpoint: Endpoint, settings: Settings, client: ApiClient) -> Deployment | None:
    """What serves the model as it is to be served already, to all or to some."""
    configuration = configuration_of(model, settings)
    for server in (endpoint.served, endpoint.candidate):
        if server is not None and server.configuration == configuration and is_available(endpoint.name, server, client):
            return server
    return None


def _check_unchanged(store: Store, current: Endpoint | None, name: str) -> None:
    """Two recipes may deploy at once: the second takes the first one's adapter along.

    :raises AirsmithError: `interrupted`, which is retried at once.
    """
    now = read_endpoint(store, name)
    if (now.deployment if now else None) != (current.deployment if current else None):
        raise AirsmithError(
            ErrorKind.INTERRUPTED, f"Another recipe has deployed to endpoint {name} meanwhile.", "Run it again."
        )


def _in_cluster(store: Store, name: str) -> Endpoint:
    """The endpoint of this name.

    :raises AirsmithError: `not_found` where there is none, or a machine serves it.
    """
    endpoint = find_endpoint(store, name)
    if endpoint.namespace is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {name} is a process of one machine, at {endpoint.address}, not of the cluster.",
            "Deploy to it from the cluster's Airflow first.",
        )
    return endpoint


def _newest_kept(endpoint: Endpoint, client: ApiClient) -> Deployment | None:
    """The newest of an endpoint's past that the cluster still holds."""
    for old in reversed(endpoint.history):
        if old.namespace is None or endpoint.find(old.deployment) is not None:
            continue
        if find_deployment(deployment_name(endpoint.name, old.deployment), old.namespace, client) is not None:
            return old
    return None
