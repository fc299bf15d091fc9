"""Endpoints in a cluster: deploy beside what is served, share traffic, settle, roll back, scale, stop."""

from __future__ import annotations

import logging

from kubernetes.client import ApiClient

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import recorded_stage
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.registry import Deployment, Endpoint, get_version, read_endpoint, resize_endpoint, swap_endpoint
from airsmith.serving.chat import curl_line, find_endpoint
from airsmith.serving.cluster_access import delete_if_there, deployments_of, find_deployment
from airsmith.serving.manifests import OPTIONAL_KINDS, configuration_of, service_name
from airsmith.serving.rollout import end, is_available, resize, rest, start, wake
from airsmith.serving.served_model import model_to_serve
from airsmith.serving.server_pod import ServedModel, deployment_name
from airsmith.serving.traffic import send_all_to, share, withdraw_candidate
from airsmith.settings import Settings

log = logging.getLogger("airsmith")


def deploy(run: Run, settings: Settings, client: ApiClient) -> StagePointer:
    """Serve the run's model at the recipe's endpoint; what serves it already goes on.

    What was served before stays at work until `settle` or `roll_back` decides.

    :param client: of the cluster.
    :raises AirsmithError: where the server does not come up; the endpoint then answers as before.
    """
    with recorded_stage("deploy", run) as record:
        current = read_endpoint(run.store, run.read_spec().recipe.endpoint_name)
        model = model_to_serve(run, current)
        if current is not None and _serves(current, model, settings, client):
            log.info("Endpoint %s serves this model already, at %s", current.name, current.address)
            return record.finish(_output(current), cached=True)
        endpoint = _replace(run.store, model, current, settings, client)
        log.info("Endpoint %s is up. From anywhere: airsmith chat %s", endpoint.name, endpoint.name)
        log.info("Inside the cluster:\n%s", curl_line(endpoint))
        return record.finish(_output(endpoint), cached=False)


def deploy_version(
    store: Store, name: str, version: int, settings: Settings, client: ApiClient, percent: int = 100
) -> Endpoint:
    """Serve a version of the registry as its run would: alone, or beside what the endpoint serves.

    :param name: of the model; the recipe that made it says which endpoint.
    :param percent: share of the requests that it takes.
    :raises AirsmithError: `not_found` where the registry does not know the version or the run that made it.
    """
    run = Run(store, _run_of(store, name, version))
    current = read_endpoint(store, run.read_spec().recipe.endpoint_name)
    model = model_to_serve(run, current)
    if current is not None and _serves(current, model, settings, client):
        return current
    if percent == 100 or current is None or not is_available(current.name, current, client):
        return _replace(store, model, current, settings, client)
    _check_percent(percent)
    alone = withdraw_candidate(store, current, settings, client)
    candidate = start(model, settings, client)
    try:
        return share(store, alone, candidate, percent, settings, client)
    except BaseException:
        end(current.name, candidate, client)
        raise


def shift_traffic(
    store: Store, name: str, percent: int, settings: Settings, client: ApiClient, servers: int | None = None
) -> Endpoint:
    """Change the share of the version beside the one that an endpoint serves: 0 withdraws it, 100 lets it take over.

    :param servers: of both together, where no Gateway weighs; see `airsmith.serving.traffic.share`.
    :raises AirsmithError: `not_found` where no version is beside it, `bad_recipe` where the share is none.
    """
    endpoint = find_endpoint(store, name)
    candidate = endpoint.candidate
    if candidate is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {name} serves one version alone.",
            "Deploy another one beside it first, with a share below 100.",
        )
    if percent == 0:
        return withdraw_candidate(store, endpoint, settings, client)
    if percent == 100:
        if not candidate.scales_itself:
            resize(name, candidate, candidate.replicas, client)
        return _turn_to(store, name, candidate, settings, client)
    _check_percent(percent)
    return share(store, endpoint, candidate, percent, settings, client, servers)


def settle(store: Store, name: str, client: ApiClient) -> None:
    """Let what an endpoint served before rest, once what it serves now is proved.

    The one before keeps its description in the cluster, without a pod, for `roll_back`; older ones are deleted.
    """
    endpoint = read_endpoint(store, name)
    if endpoint is None or endpoint.namespace is None:
        return
    current = {started.deployment for started in (endpoint, endpoint.candidate) if started is not None}
    kept = next((old for old in reversed(endpoint.history) if old.deployment not in current), None)
    stay = {deployment_name(name, deployment) for deployment in current}
    for found in deployments_of(name, endpoint.namespace, client):
        known = found.metadata.name
        if kept is not None and known == deployment_name(name, kept.deployment):
            if found.spec.replicas:
                log.info("Version %s rests; rolling back starts it again.", kept.version)
                rest(name, kept, client)
        elif known not in stay:
            delete_if_there("Deployment", "apps/v1", known, endpoint.namespace, client)


def roll_back(store: Store, name: str, settings: Settings, client: ApiClient) -> Endpoint:
    """Serve what was served before and end what is served now; a version beside it is withdrawn, no more.

    :raises AirsmithError: `not_found` where the cluster holds nothing to go back to; the endpoint then stays as it is.
    """
    endpoint = find_endpoint(store, name)
    if endpoint.candidate is not None:
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
    restored = _turn_to(store, name, before, settings, client)
    end(name, endpoint, client)
    return restored


def scale(store: Store, name: str, replicas: int, client: ApiClient) -> Endpoint:
    """Change how many servers an endpoint has, and wait for them.

    :raises AirsmithError: `bad_recipe` where it scales itself, shares its traffic, or is to have none.
    """
    endpoint = find_endpoint(store, name)
    if replicas < 1 or endpoint.candidate is not None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Endpoint {name} cannot have {replicas} servers"
            + (" while two versions share its traffic." if endpoint.candidate else "."),
            "Stop it, or let one version serve alone first.",
        )
    resize(name, endpoint, replicas, client)
    return resize_endpoint(store, name, replicas)


def stop(store: Store, name: str, client: ApiClient) -> bool:
    """End an endpoint in the cluster, with all versions that it holds. Its record stays, for the history.

    :returns: whether anything was there.
    """
    endpoint = find_endpoint(store, name)
    namespace = endpoint.namespace
    if namespace is None:
        return False
    for kind in ("HTTPRoute", "ServiceMonitor", "PodDisruptionBudget"):
        delete_if_there(kind, OPTIONAL_KINDS[kind], service_name(name), namespace, client)
    delete_if_there("Service", "v1", service_name(name), namespace, client)
    standing = deployments_of(name, namespace, client)
    for found in standing:
        delete_if_there("Deployment", "apps/v1", found.metadata.name, namespace, client)
    return bool(standing)


def _replace(
    store: Store, model: ServedModel, current: Endpoint | None, settings: Settings, client: ApiClient
) -> Endpoint:
    """Start a server and let it take over, beside what was served before."""
    started = start(model, settings, client)
    try:
        if model.adapters:
            _check_unchanged(store, current, model.endpoint)
        endpoint = _turn_to(store, model.endpoint, started, settings, client)
    except BaseException:
        end(model.endpoint, started, client)
        raise
    if current is not None and current.candidate is not None:
        end(current.name, current.candidate, client)
    return endpoint


def _turn_to(store: Store, name: str, served: Deployment, settings: Settings, client: ApiClient) -> Endpoint:
    send_all_to(name, served, settings, client)
    return swap_endpoint(store, name, served)


def _check_unchanged(store: Store, current: Endpoint | None, name: str) -> None:
    """Two recipes may deploy at once: the second takes the first one's adapter along.

    :raises AirsmithError: `interrupted`, which is retried at once.
    """
    now = read_endpoint(store, name)
    if (now.deployment if now else None) != (current.deployment if current else None):
        raise AirsmithError(
            ErrorKind.INTERRUPTED, f"Another recipe has deployed to endpoint {name} meanwhile.", "Run it again."
        )


def _serves(endpoint: Endpoint, model: ServedModel, settings: Settings, client: ApiClient) -> bool:
    return endpoint.configuration == configuration_of(model, settings) and is_available(endpoint.name, endpoint, client)


def _newest_kept(endpoint: Endpoint, client: ApiClient) -> Deployment | None:
    """The newest of an endpoint's past that the cluster still holds."""
    for old in reversed(endpoint.history):
        if old.namespace is None or old.deployment == endpoint.deployment:
            continue
        if find_deployment(deployment_name(endpoint.name, old.deployment), old.namespace, client) is not None:
            return old
    return None


def _run_of(store: Store, name: str, version: int) -> str:
    run = get_version(store, name, version).run
    if run is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Version {version} of {name} does not say which run made it.",
            "Clear the task deploy of the run that did.",
        )
    return run


def _check_percent(percent: int) -> None:
    if not 0 < percent < 100:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"{percent} % is no share of the requests.", "Give a number from 0 to 100."
        )


def _output(endpoint: Endpoint) -> Output:
    properties = {"address": endpoint.address, "model_name": endpoint.model_name}
    return Output(ArtifactType.ENDPOINT, endpoint.deployment, endpoint_path(endpoint.name), True, properties)
