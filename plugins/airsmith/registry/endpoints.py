"""Endpoints: one record each, changed by compare-and-swap, its history kept."""

from __future__ import annotations

from datetime import datetime, timezone

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.store import Store
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
    """Record that an endpoint serves something else now.

    :returns: the new record; its `previous` is what it took the place of.
    """
    path = endpoint_path(checked_name(name))
    return change_record(store, path, Endpoint, lambda before: _successor(name, deployment, before))


def _successor(name: str, deployment: Deployment, before: Endpoint | None) -> Endpoint:
    history: tuple[Deployment, ...] = ()
    if before is not None:
        served = Deployment.model_validate(before.model_dump(include=set(Deployment.model_fields)))
        history = (*before.history, served)[-_MOST_HISTORY:]
    fields = deployment.model_dump(include=set(Deployment.model_fields))
    return Endpoint(**fields, name=name, history=history, updated_at=datetime.now(timezone.utc))
