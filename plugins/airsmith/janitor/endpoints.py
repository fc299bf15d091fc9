"""Servers in a cluster that their endpoint neither uses nor would go back to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from kubernetes.client import ApiClient, AppsV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.artifacts.store import Store
from airsmith.cluster.access import delete_if_there
from airsmith.cluster.labels import PREFIX, label_value
from airsmith.janitor.garbage import Garbage
from airsmith.janitor.pods import refused, server_time
from airsmith.janitor.report import Section
from airsmith.janitor.tidy import section
from airsmith.registry import Endpoint, list_endpoints


def tidy_endpoints(store: Store, namespace: str, grace: timedelta, told: Collection[str], client: ApiClient) -> Section:
    """Find the servers that no endpoint needs, and delete them where the janitor is told to.

    :param grace: a server that is younger may be about to be recorded.
    :raises AirsmithError: where the cluster does not answer, or an endpoint's record cannot be understood.
    """
    deployments, now = _deployments(namespace, client)
    garbage = list(unused_servers(deployments, list_endpoints(store), store.uri, now, grace))

    def delete(unused: Sequence[Garbage]) -> list[Garbage]:
        for server in unused:
            delete_if_there("Deployment", "apps/v1", server.name, namespace, client)
        return list(unused)

    return section("endpoints", garbage, delete, told)


def unused_servers(
    deployments: Iterable[k8s.V1Deployment],
    endpoints: Iterable[Endpoint],
    store_uri: str,
    now: datetime,
    grace: timedelta,
) -> Iterator[Garbage]:
    """The Deployments that no endpoint's record names, nor would name after a roll-back.

    :param store_uri: only servers of models of this store are judged: the records of others lie elsewhere.
    :param now: by the API server's clock.
    """
    records = {label_value(endpoint.name): endpoint for endpoint in endpoints}
    by_endpoint: dict[str, list[k8s.V1Deployment]] = defaultdict(list)
    for deployment in deployments:
        if _serves_from(deployment, store_uri):
            by_endpoint[deployment.metadata.labels[f"{PREFIX}endpoint"]].append(deployment)
    for name, standing in by_endpoint.items():
        ids = {_id(deployment) for deployment in standing}
        record = records.get(name)
        needed = _needed(record, ids) if record is not None else set()
        for deployment in standing:
            if _id(deployment) not in needed and deployment.metadata.creation_timestamp < now - grace:
                reason = f"endpoint {name} does not use it" if record else f"no endpoint {name} is recorded"
                yield Garbage("endpoints", deployment.metadata.name, reason)


def _needed(endpoint: Endpoint, standing: Collection[str]) -> set[str]:
    """What serves, what shares the traffic, and what a roll-back would wake: the newest before that still stands."""
    current = {endpoint.deployment}
    if endpoint.candidate is not None:
        current.add(endpoint.candidate.deployment)
    before = (old.deployment for old in reversed(endpoint.history))
    kept = next((old for old in before if old not in current and label_value(old) in standing), None)
    return {label_value(one) for one in current | ({kept} if kept is not None else set())}


def _id(deployment: k8s.V1Deployment) -> str:
    return str(deployment.metadata.labels.get(f"{PREFIX}deployment", ""))


def _serves_from(deployment: k8s.V1Deployment, store_uri: str) -> bool:
    """Whether the containers are told to take their model from this store."""
    pod = deployment.spec.template.spec
    words = (
        word
        for container in (*(pod.init_containers or ()), *pod.containers)
        for word in (*(container.command or ()), *(container.args or ()))
    )
    return any(word == store_uri or word.startswith(f"{store_uri}/") for word in words)


def _deployments(namespace: str, client: ApiClient) -> tuple[list[k8s.V1Deployment], datetime]:
    """All servers of endpoints, and the API server's time."""
    listing = AppsV1Api(client).list_namespaced_deployment_with_http_info
    try:
        listed, _, headers = listing(namespace, label_selector=f"{PREFIX}endpoint")
    except ApiException as refusal:
        raise refused(f"the list of the Deployments of {namespace}", refusal) from refusal
    return list(listed.items), server_time(headers)
