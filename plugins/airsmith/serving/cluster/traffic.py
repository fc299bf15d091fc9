"""Who answers an endpoint's requests: one version, or two that share them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from kubernetes.client import ApiClient

from airsmith.artifacts.store import Store
from airsmith.cluster.access import apply, delete_if_there, optional_kinds
from airsmith.cluster.manifest import OPTIONAL_KINDS
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Deployment, Endpoint, read_endpoint, share_endpoint, swap_endpoint
from airsmith.serving.cluster.gateway import wait_until_taken
from airsmith.serving.cluster.manifests import address, guards, route, service, service_name
from airsmith.serving.cluster.rollout import end, is_available, resize
from airsmith.serving.cluster.served import deployment_name
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

_NEAR_PERCENT = 5
"""A share by the number of servers that is further from what was asked for is warned of."""


@dataclass(frozen=True)
class Share:
    """How many of an endpoint's requests a version is to have.

    :param percent: from 0 to 100.
    :param servers: of both versions together, where no Gateway weighs; one more than the endpoint has when None.
    """

    percent: int
    servers: int | None = None


ALL = Share(100)


def turn_to(store: Store, name: str, served: Deployment, settings: Settings, client: ApiClient) -> Endpoint:
    """Let one start of an endpoint's server answer every request, and record it.

    Where that fails, requests go where they went before; where they went nowhere, nothing is left.
    """
    assert served.namespace is not None, "a server on this machine has no Service"
    before = read_endpoint(store, name)
    try:
        _direct(name, served, None, 0, settings, client)
        return swap_endpoint(store, name, served.model_copy(update={"address": address(name, served.namespace)}))
    except BaseException:
        if before is not None and is_available(name, before, client):
            _direct(name, before, before.candidate, before.candidate_percent, settings, client)
        else:
            close(name, served.namespace, client)
        raise


def close(name: str, namespace: str, client: ApiClient) -> None:
    """Remove what leads to an endpoint, and what watches over it."""
    for kind in ("HTTPRoute", "ServiceMonitor", "PodDisruptionBudget"):
        delete_if_there(kind, OPTIONAL_KINDS[kind], service_name(name), namespace, client)
    delete_if_there("Service", "v1", service_name(name), namespace, client)


def share(
    store: Store,
    endpoint: Endpoint,
    candidate: Deployment,
    wanted: Share,
    settings: Settings,
    client: ApiClient,
) -> Endpoint:
    """Give a candidate its share of an endpoint's requests, and record it.

    Through the settings' Gateway the share is exact, and the Service goes on as before; without one the Service sends
    connections to both, by the number of servers that each has, and that share is recorded.

    :param wanted: more than nothing, less than all.
    """
    name, percent = endpoint.name, wanted.percent
    by_servers = not _has_route(settings, client)
    if by_servers:
        stable_servers, candidate_servers = split_servers(wanted.servers or endpoint.replicas + 1, percent)
        resize(name, candidate, candidate_servers, client)
        resize(name, endpoint, stable_servers, client)
        percent = _told_share(stable_servers, candidate_servers, percent)
    try:
        _direct(name, endpoint, candidate, percent, settings, client)
        return share_endpoint(store, name, candidate, percent, beside=endpoint.deployment)
    except BaseException:
        _direct(name, endpoint, endpoint.candidate, endpoint.candidate_percent, settings, client)
        if by_servers and endpoint.candidate is None:
            resize(name, endpoint, endpoint.replicas, client)
        raise


def withdraw_candidate(store: Store, endpoint: Endpoint, settings: Settings, client: ApiClient) -> Endpoint:
    """End a candidate and its share."""
    if endpoint.candidate is None:
        return endpoint
    if not _has_route(settings, client):
        resize(endpoint.name, endpoint, endpoint.replicas, client)
    _direct(endpoint.name, endpoint, None, 0, settings, client)
    withdrawn = share_endpoint(store, endpoint.name, None, 0, beside=endpoint.deployment)
    end(endpoint.name, endpoint.candidate, client)
    return withdrawn


def split_servers(servers: int, percent: int) -> tuple[int, int]:
    """How many servers each of two versions has, the second near its share; both have one at least.

    :raises AirsmithError: `bad_recipe` where there are fewer than two.
    """
    if servers < 2:
        raise AirsmithError(ErrorKind.BAD_RECIPE, "Two versions need two servers at least.", "Ask for more servers.")
    second = min(max(round(servers * percent / 100), 1), servers - 1)
    return servers - second, second


def _told_share(stable_servers: int, candidate_servers: int, percent: int) -> int:
    """The share that the number of servers makes of the one that was asked for."""
    servers = stable_servers + candidate_servers
    actual = round(100 * candidate_servers / servers)
    log.info("%d of %d servers take %d %% of the connections.", candidate_servers, servers, actual)
    if abs(actual - percent) > _NEAR_PERCENT:
        log.warning("Not %d %%: with more servers it would be nearer, through a kubernetes.gateway exact.", percent)
    return actual


def _direct(
    name: str, served: Deployment, candidate: Deployment | None, percent: int, settings: Settings, client: ApiClient
) -> None:
    """Send an endpoint's requests where they belong."""
    kinds = optional_kinds(client)
    weights = {deployment_name(name, served.deployment): 100 - percent}
    if candidate is not None:
        weights[deployment_name(name, candidate.deployment)] = percent
    is_shared_by_service = candidate is not None and not _has_route(settings, client)
    apply(service(name, None if is_shared_by_service else served.deployment, settings), client)
    if _has_route(settings, client):
        weighed = route(name, weights, settings)
        apply(weighed, client)
        wait_until_taken(weighed, client)
    for manifest in guards(name, settings, kinds):
        apply(manifest, client)


def _has_route(settings: Settings, client: ApiClient) -> bool:
    return settings.kubernetes.gateway is not None and "HTTPRoute" in optional_kinds(client)
