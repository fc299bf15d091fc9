"""Deployments of endpoints that serve no requests and that no rollback needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from kubernetes.client import ApiClient, AppsV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.artifacts.store import Store
from airsmith.cluster.access import delete_if_exists
from airsmith.cluster.labels import PREFIX, label_value
from airsmith.janitor.garbage import Garbage
from airsmith.janitor.pods import access_error, server_time
from airsmith.janitor.report import Section
from airsmith.janitor.tidy import section
from airsmith.registry import Endpoint, list_endpoints


def tidy_endpoints(
    store: Store, namespace: str, grace: timedelta, kinds_to_delete: Collection[str], client: ApiClient
) -> Section:
    """Find the Deployments that no endpoint needs, and delete them if requested.

    :param grace: minimum age; a deploy may not have recorded a younger Deployment yet.
    :raises AirsmithError: if the cluster does not respond, or an endpoint's record is damaged.
    """
    deployments, now = _deployments(namespace, client)
    garbage = list(unused_deployments(deployments, list_endpoints(store), store.uri, now, grace))

    def delete(unused: Sequence[Garbage]) -> list[Garbage]:
        for found in unused:
            delete_if_exists("Deployment", "apps/v1", found.name, namespace, client)
        return list(unused)

    return section("endpoints", garbage, delete, kinds_to_delete)


def unused_deployments(
    deployments: Iterable[k8s.V1Deployment],
    endpoints: Iterable[Endpoint],
    store_uri: str,
    now: datetime,
    grace: timedelta,
) -> Iterator[Garbage]:
    """The Deployments of revisions that no endpoint routes to and that no rollback resumes.

    :param store_uri: Deployments that serve models of other stores are ignored: their records are elsewhere.
    :param now: time of the API server.
    """
    records = {label_value(endpoint.name): endpoint for endpoint in endpoints}
    by_endpoint: dict[str, list[k8s.V1Deployment]] = defaultdict(list)
    for deployment in deployments:
        if _serves_from(deployment, store_uri):
            by_endpoint[deployment.metadata.labels[f"{PREFIX}endpoint"]].append(deployment)
    for name, existing in by_endpoint.items():
        revision_ids = {_revision_id(deployment) for deployment in existing}
        record = records.get(name)
        needed = _needed_revisions(record, revision_ids) if record is not None else set()
        for deployment in existing:
            if _revision_id(deployment) not in needed and deployment.metadata.creation_timestamp < now - grace:
                reason = f"endpoint {name} does not use it" if record else f"endpoint {name} is not recorded"
                yield Garbage("endpoints", deployment.metadata.name, reason)


def _needed_revisions(endpoint: Endpoint, existing: Collection[str]) -> set[str]:
    """Ids, as label values, of the current revision, the canary, and the newest previous one that still exists."""
    serving = {endpoint.current.id}
    if endpoint.canary is not None:
        serving.add(endpoint.canary.id)
    previous = (revision.id for revision in reversed(endpoint.history))
    target = next((found for found in previous if found not in serving and label_value(found) in existing), None)
    return {label_value(found) for found in serving | ({target} if target is not None else set())}


def _revision_id(deployment: k8s.V1Deployment) -> str:
    return str(deployment.metadata.labels.get(f"{PREFIX}revision", ""))


def _serves_from(deployment: k8s.V1Deployment, store_uri: str) -> bool:
    """Whether the containers' command lines name this store."""
    pod = deployment.spec.template.spec
    words = (
        word
        for container in (*(pod.init_containers or ()), *pod.containers)
        for word in (*(container.command or ()), *(container.args or ()))
    )
    return any(word == store_uri or word.startswith(f"{store_uri}/") for word in words)


def _deployments(namespace: str, client: ApiClient) -> tuple[list[k8s.V1Deployment], datetime]:
    """All Deployments of endpoints, and the API server's time."""
    listing = AppsV1Api(client).list_namespaced_deployment_with_http_info
    try:
        listed, _, headers = listing(namespace, label_selector=f"{PREFIX}endpoint")
    except ApiException as error:
        raise access_error(f"the list of the Deployments of {namespace}", error) from error
    return list(listed.items), server_time(headers)
