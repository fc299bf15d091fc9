"""Endpoints: one record each, changed by compare-and-swap, its history kept."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry.names import checked_name
from airsmith.registry.records import Deployment, Endpoint
from airsmith.registry.swapping import change_record, read_record

_MOST_HISTORY = 50


def read_endpoint(store: Store, name: str) -> Endpoint | None:
    """What an endpoint serves, or None where there is none of that name."""
    found = read_record(store, endpoint_path(checked_name(name)), Endpoint)
    return found[0] if found is not None else None


def list_endpoints(store: Store) -> list[Endpoint]:
    """All endpoints, by name."""
    paths = [info.path for info in store.list("endpoints") if info.path.endswith(".json")]
    found = (read_record(store, path, Endpoint) for path in paths)
    return sorted((record[0] for record in found if record is not None), key=lambda endpoint: endpoint.name)


def swap_endpoint(store: Store, name: str, deployment: Deployment) -> Endpoint:
    """Record that an endpoint serves something else now, and that alone: a candidate's share ends.

    :returns: the new record; its `previous` is what it took the place of.
    """
    path = endpoint_path(checked_name(name))
    return change_record(store, path, Endpoint, lambda before: _successor(name, deployment, before))


def share_endpoint(
    store: Store, name: str, candidate: Deployment | None, percent: int, *, beside: str | None = None
) -> Endpoint:
    """Record which share of an endpoint's requests another deployment takes.

    :param candidate: None where it takes none any more.
    :param beside: id of the deployment that is to have the rest.
    :raises AirsmithError: `not_found` where there is no such endpoint, `interrupted` where it serves another by now.
    """
    return _amend(store, name, beside, candidate=candidate, candidate_percent=percent if candidate else 0)


def resize_endpoint(store: Store, name: str, replicas: int, *, of: str | None = None) -> Endpoint:
    """Record how many servers an endpoint has.

    :param of: id of the deployment that has them.
    :raises AirsmithError: `not_found` where there is no such endpoint, `interrupted` where it serves another by now.
    """
    return _amend(store, name, of, replicas=replicas)


def _amend(store: Store, name: str, deployment: str | None, **changes: Any) -> Endpoint:
    """Change what is said of an endpoint that goes on serving what it serves."""

    def amended(now: Endpoint | None) -> Endpoint:
        if now is None:
            raise AirsmithError(ErrorKind.NOT_FOUND, f"There is no endpoint {name} in {store.uri}.")
        if deployment not in (None, now.deployment):
            raise AirsmithError(
                ErrorKind.INTERRUPTED,
                f"Endpoint {name} has come to serve something else meanwhile.",
                "Look at what it serves now, and say again what it should.",
            )
        return now.model_copy(update={**changes, "updated_at": datetime.now(timezone.utc)})

    return change_record(store, endpoint_path(checked_name(name)), Endpoint, amended)


def _successor(name: str, deployment: Deployment, before: Endpoint | None) -> Endpoint:
    history = () if before is None else (*before.history, before.served)[-_MOST_HISTORY:]
    fields = deployment.model_dump(include=set(Deployment.model_fields))
    return Endpoint(**fields, name=name, history=history, updated_at=datetime.now(timezone.utc))
