"""Waiting for a Gateway to accept an endpoint's HTTPRoute, which routes no requests before."""

from __future__ import annotations

import time
from typing import Any

from kubernetes.client import ApiClient, CustomObjectsApi

from airsmith.cluster.access import api_errors_in_words
from airsmith.cluster.manifest import OPTIONAL_KINDS, Manifest
from airsmith.errors import AirsmithError, ErrorKind

ACCEPT_TIMEOUT_SECONDS = 30.0
"""Timeout for the Gateway's controller to process a route."""
POLL_SECONDS = 0.25


def wait_until_accepted(route: Manifest, client: ApiClient) -> None:
    """Wait until the Gateway has accepted the current generation of a route.

    :raises AirsmithError: `bad_recipe` with the Gateway's reason if it rejects the route; `not_found` if no controller
        processes it.
    """
    name, namespace = route["metadata"]["name"], route["metadata"]["namespace"]
    gateway = "/".join(route["spec"]["parentRefs"][0][part] for part in ("namespace", "name"))
    group, version = OPTIONAL_KINDS["HTTPRoute"].split("/")
    deadline = time.monotonic() + ACCEPT_TIMEOUT_SECONDS
    while True:
        with api_errors_in_words(f"reading HTTPRoute {name}"):
            found = CustomObjectsApi(client).get_namespaced_custom_object(group, version, namespace, "httproutes", name)
        conditions = _conditions(found)
        rejections = [condition for condition in conditions if condition["status"] == "False"]
        if conditions and not rejections:
            return
        if time.monotonic() > deadline:
            raise _route_error(name, gateway, rejections)
        time.sleep(POLL_SECONDS)


def _conditions(route: Any) -> list[dict[str, Any]]:
    """Conditions of the route's current generation: whether it is accepted and its references resolve."""
    generation = route["metadata"]["generation"]
    return [
        condition
        for parent in route.get("status", {}).get("parents", [])
        for condition in parent["conditions"]
        if condition["type"] in ("Accepted", "ResolvedRefs")
        and condition.get("observedGeneration", generation) == generation
    ]


def _route_error(name: str, gateway: str, rejections: list[dict[str, Any]]) -> AirsmithError:
    if not rejections:
        return AirsmithError(
            ErrorKind.NOT_FOUND,
            f"No controller of Gateway {gateway} processed HTTPRoute {name} in {ACCEPT_TIMEOUT_SECONDS:.0f} s.",
            "Check that kubernetes.gateway names an existing Gateway and that its controller is running.",
        )
    reasons = "; ".join(f"{condition['reason']}: {condition['message']}" for condition in rejections)
    return AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"Gateway {gateway} rejects HTTPRoute {name}: {reasons}",
        "Check which namespaces and kinds of route its listeners allow.",
    )
