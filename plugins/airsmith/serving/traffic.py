"""Who answers an endpoint's requests: one version, or two that share them."""

from __future__ import annotations

import logging

from kubernetes.client import ApiClient

from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.registry import Deployment, Endpoint, share_endpoint
from airsmith.serving.cluster_access import apply, optional_kinds
from airsmith.serving.manifests import guards, route, service
from airsmith.serving.rollout import end, resize
from airsmith.serving.server_pod import deployment_name
from airsmith.settings import Settings

log = logging.getLogger("airsmith")


def send_all_to(endpoint: str, served: Deployment, settings: Settings, client: ApiClient) -> None:
    """Let one start of an endpoint's server answer every request."""
    kinds = optional_kinds(client)
    apply(service(endpoint, served.deployment, settings), client)
    if _has_route(settings, kinds):
        apply(route(endpoint, {deployment_name(endpoint, served.deployment): 100}, settings), client)
    for manifest in guards(endpoint, settings, kinds):
        apply(manifest, client)


def share(
    store: Store,
    endpoint: Endpoint,
    candidate: Deployment,
    percent: int,
    settings: Settings,
    client: ApiClient,
    servers: int | None = None,
) -> Endpoint:
    """Give a candidate its share of an endpoint's requests, and record it.

    Through the settings' Gateway the share is exact, and the Service goes on as before; without one the Service sends
    connections to both, by the number of servers that each has.

    :param percent: more than 0, less than 100.
    :param servers: of both together, where their number decides; one more than the endpoint has when None.
    """
    if _has_route(settings, optional_kinds(client)):
        weights = {
            deployment_name(endpoint.name, endpoint.deployment): 100 - percent,
            deployment_name(endpoint.name, candidate.deployment): percent,
        }
        apply(route(endpoint.name, weights, settings), client)
    else:
        stable_servers, candidate_servers = split_servers(servers or endpoint.replicas + 1, percent)
        resize(endpoint.name, candidate, candidate_servers, client)
        resize(endpoint.name, endpoint, stable_servers, client)
        apply(service(endpoint.name, None, settings), client)
        actual = 100 * candidate_servers / (stable_servers + candidate_servers)
        log.info(
            "%d of %d servers take %.0f %% of the connections.", candidate_servers, stable_servers + candidate_servers,
            actual,
        )  # fmt: skip
    return share_endpoint(store, endpoint.name, candidate, percent)


def withdraw_candidate(store: Store, endpoint: Endpoint, settings: Settings, client: ApiClient) -> Endpoint:
    """End a candidate and its share."""
    if endpoint.candidate is None:
        return endpoint
    if not _has_route(settings, optional_kinds(client)):
        resize(endpoint.name, endpoint, endpoint.replicas, client)
    send_all_to(endpoint.name, endpoint, settings, client)
    withdrawn = share_endpoint(store, endpoint.name, None, 0)
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


def _has_route(settings: Settings, kinds: frozenset[str]) -> bool:
    return settings.kubernetes.gateway is not None and "HTTPRoute" in kinds
