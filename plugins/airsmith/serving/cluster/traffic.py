"""Routing of an endpoint's requests: to one revision, or to two that share them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from kubernetes.client import ApiClient

from airsmith.artifacts.store import Store
from airsmith.cluster.access import apply, delete_if_exists, optional_kinds
from airsmith.cluster.manifest import OPTIONAL_KINDS
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, Revision, read_endpoint, record_canary, record_current
from airsmith.serving.cluster.gateway import wait_until_accepted
from airsmith.serving.cluster.manifests import protection, route, service, service_name, service_url
from airsmith.serving.cluster.rollout import delete_revision, is_available, scale_revision
from airsmith.serving.cluster.served_model import deployment_name
from airsmith.settings import Settings

log = logging.getLogger("airsmith")

_PERCENT_TOLERANCE = 5
"""A larger difference between the requested percentage and that of the replicas logs a warning."""


@dataclass(frozen=True)
class TrafficShare:
    """The requested share of an endpoint's requests.

    :param percent: from 0 to 100.
    :param replicas: replicas of both revisions together, without a Gateway; one more than the endpoint has if None.
    """

    percent: int
    replicas: int | None = None


ALL_TRAFFIC = TrafficShare(100)


def route_all(store: Store, name: str, revision: Revision, settings: Settings, client: ApiClient) -> Endpoint:
    """Route all requests of an endpoint to a revision, and record it as current.

    On failure the previous routing is restored, or all routing is deleted if the endpoint had none.
    """
    assert revision.namespace is not None, "a local revision has no Service"
    before = read_endpoint(store, name)
    try:
        _apply_routing(name, revision, None, 0, settings, client)
        served = revision.model_copy(update={"address": service_url(service_name(name), revision.namespace)})
        return record_current(store, name, served)
    except BaseException:
        if before is not None and is_available(name, before.current, client):
            _apply_routing(name, before.current, before.canary, before.canary_percent, settings, client)
        else:
            delete_routing(name, revision.namespace, client)
        raise


def delete_routing(name: str, namespace: str, client: ApiClient) -> None:
    """Delete an endpoint's Service, route, disruption budget and monitor."""
    for kind in ("HTTPRoute", "ServiceMonitor", "PodDisruptionBudget"):
        delete_if_exists(kind, OPTIONAL_KINDS[kind], service_name(name), namespace, client)
    delete_if_exists("Service", "v1", service_name(name), namespace, client)


def route_share(
    store: Store, endpoint: Endpoint, canary: Revision, share: TrafficShare, settings: Settings, client: ApiClient
) -> Endpoint:
    """Route a share of an endpoint's requests to a canary, and record it.

    With the settings' Gateway the share is exact and the Service stays unchanged. Without one, the Service selects the
    pods of both revisions, and the recorded percentage follows from the number of replicas.

    :param share: from 1 to 99 percent.
    """
    name, percent, current = endpoint.name, share.percent, endpoint.current
    by_replicas = not _has_route(settings, client)
    if by_replicas:
        current_replicas, canary_replicas = split_replicas(share.replicas or current.replicas + 1, percent)
        scale_revision(name, canary, canary_replicas, client)
        scale_revision(name, current, current_replicas, client)
        percent = _percent_of_replicas(current_replicas, canary_replicas, percent)
    try:
        _apply_routing(name, current, canary, percent, settings, client)
        return record_canary(store, name, canary, percent, expected=current.id)
    except BaseException:
        _apply_routing(name, current, endpoint.canary, endpoint.canary_percent, settings, client)
        if by_replicas and endpoint.canary is None:
            scale_revision(name, current, current.replicas, client)
        raise


def remove_canary(store: Store, endpoint: Endpoint, settings: Settings, client: ApiClient) -> Endpoint:
    """Route all requests to the current revision and delete the canary."""
    current = endpoint.current
    if endpoint.canary is None:
        return endpoint
    if not _has_route(settings, client):
        scale_revision(endpoint.name, current, current.replicas, client)
    _apply_routing(endpoint.name, current, None, 0, settings, client)
    updated = record_canary(store, endpoint.name, None, 0, expected=current.id)
    delete_revision(endpoint.name, endpoint.canary, client)
    return updated


def split_replicas(replicas: int, percent: int) -> tuple[int, int]:
    """Split replicas between two revisions, as near to the second one's percentage as possible; each gets at least one.

    :raises AirsmithError: `bad_recipe` if there are fewer than two replicas.
    """
    if replicas < 2:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"Two revisions need at least two replicas, not {replicas}.",
            "Set replicas to 2 or more.",
        )
    second = min(max(round(replicas * percent / 100), 1), replicas - 1)
    return replicas - second, second


def _percent_of_replicas(current_replicas: int, canary_replicas: int, percent: int) -> int:
    """The percentage that follows from the number of replicas; logs it next to the requested one."""
    replicas = current_replicas + canary_replicas
    actual = round(100 * canary_replicas / replicas)
    log.info("%d of %d replicas receive %d %% of the connections.", canary_replicas, replicas, actual)
    if abs(actual - percent) > _PERCENT_TOLERANCE:
        log.warning(
            "The requested share is %d %%. More replicas approximate it better; kubernetes.gateway makes it exact.",
            percent,
        )
    return actual


def _apply_routing(
    name: str, current: Revision, canary: Revision | None, percent: int, settings: Settings, client: ApiClient
) -> None:
    """Apply the objects that route an endpoint's requests."""
    kinds = optional_kinds(client)
    weights = {deployment_name(name, current.id): 100 - percent}
    if canary is not None:
        weights[deployment_name(name, canary.id)] = percent
    service_selects_both = canary is not None and not _has_route(settings, client)
    apply(service(name, None if service_selects_both else current.id, settings), client)
    if _has_route(settings, client):
        manifest = route(name, weights, settings)
        apply(manifest, client)
        wait_until_accepted(manifest, client)
    for manifest in protection(name, settings, kinds):
        apply(manifest, client)


def _has_route(settings: Settings, client: ApiClient) -> bool:
    return settings.kubernetes.gateway is not None and "HTTPRoute" in optional_kinds(client)
