"""What a Gateway says to the route of an endpoint: only one that it has taken sends requests anywhere."""

from __future__ import annotations

import time
from typing import Any

from kubernetes.client import ApiClient, CustomObjectsApi

from airsmith.cluster.access import refusals_told
from airsmith.cluster.manifest import OPTIONAL_KINDS, Manifest
from airsmith.errors import AirsmithError, ErrorKind

TAKEN_SECONDS = 30.0
"""Longest time that a controller may need to look at a route."""
POLL_SECONDS = 0.25


def wait_until_taken(route: Manifest, client: ApiClient) -> None:
    """Wait until the Gateway has taken a route as it was last described.

    :raises AirsmithError: `bad_recipe` in the words of the Gateway that refuses it; `not_found` where none looks at it.
    """
    name, namespace = route["metadata"]["name"], route["metadata"]["namespace"]
    gateway = "/".join(route["spec"]["parentRefs"][0][part] for part in ("namespace", "name"))
    group, version = OPTIONAL_KINDS["HTTPRoute"].split("/")
    deadline = time.monotonic() + TAKEN_SECONDS
    while True:
        with refusals_told(f"a look at HTTPRoute {name}"):
            found = CustomObjectsApi(client).get_namespaced_custom_object(group, version, namespace, "httproutes", name)
        conditions = _conditions(found)
        refused = [condition for condition in conditions if condition["status"] == "False"]
        if conditions and not refused:
            return
        if time.monotonic() > deadline:
            raise _refusal(name, gateway, refused)
        time.sleep(POLL_SECONDS)


def _conditions(route: Any) -> list[dict[str, Any]]:
    """What is said of the route as it is now: whether it is accepted, and leads somewhere."""
    now = route["metadata"]["generation"]
    said = [condition for parent in route.get("status", {}).get("parents", []) for condition in parent["conditions"]]
    return [
        condition
        for condition in said
        if condition["type"] in ("Accepted", "ResolvedRefs") and condition.get("observedGeneration", now) == now
    ]


def _refusal(name: str, gateway: str, refused: list[dict[str, Any]]) -> AirsmithError:
    if not refused:
        return AirsmithError(
            ErrorKind.NOT_FOUND,
            f"No Gateway {gateway} has looked at the route of {name} in {TAKEN_SECONDS:.0f} s.",
            "See that kubernetes.gateway names a Gateway whose controller is at work.",
        )
    said = "; ".join(f"{condition['reason']}: {condition['message']}" for condition in refused)
    return AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"Gateway {gateway} refuses the route of {name}: {said}",
        "See which namespaces and kinds of route its listeners allow.",
    )
