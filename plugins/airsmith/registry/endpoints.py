"""Endpoints: one record each, changed by compare-and-swap, with its history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry.compare_and_swap import read_record, update_record
from airsmith.registry.names import check_name
from airsmith.registry.records import Endpoint, Revision

_MAX_HISTORY = 50


def read_endpoint(store: Store, name: str) -> Endpoint | None:
    """The record of an endpoint, or None if no endpoint has this name."""
    found = read_record(store, endpoint_path(check_name(name)), Endpoint)
    return found[0] if found is not None else None


def list_endpoints(store: Store) -> list[Endpoint]:
    """All endpoints, sorted by name."""
    paths = [info.path for info in store.list("endpoints") if info.path.endswith(".json")]
    found = (read_record(store, path, Endpoint) for path in paths)
    return sorted((record[0] for record in found if record is not None), key=lambda endpoint: endpoint.name)


def record_current(store: Store, name: str, revision: Revision) -> Endpoint:
    """Record the revision that serves all requests of an endpoint; the record loses its canary.

    :returns: the new record; its `previous` is the revision that was replaced.
    """
    path = endpoint_path(check_name(name))
    return update_record(store, path, Endpoint, lambda before: _successor(name, revision, before))


def record_canary(
    store: Store, name: str, canary: Revision | None, percent: int, *, expected: str | None = None
) -> Endpoint:
    """Record the revision that serves a percentage of an endpoint's requests.

    :param canary: None removes it.
    :param expected: id of the revision that must be current; any if None.
    :raises AirsmithError: `not_found` if no such endpoint exists, `interrupted` if another revision is current.
    """
    changes = {"canary": canary, "canary_percent": percent if canary else 0}
    return _amend(store, name, expected, lambda endpoint: endpoint.model_copy(update=changes))


def record_replicas(store: Store, name: str, replicas: int, *, expected: str | None = None) -> Endpoint:
    """Record the number of replicas of the current revision.

    :param expected: id of the revision that must be current; any if None.
    :raises AirsmithError: `not_found` if no such endpoint exists, `interrupted` if another revision is current.
    """
    return _amend(store, name, expected, lambda endpoint: endpoint.with_current(replicas=replicas))


def _amend(store: Store, name: str, expected: str | None, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
    """Change an endpoint's record without changing its history."""

    def amended(before: Endpoint | None) -> Endpoint:
        if before is None:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"Endpoint {name} does not exist in {store.uri}.",
                "Check the endpoint's name and the setting `store`.",
            )
        if expected not in (None, before.current.id):
            raise AirsmithError(
                ErrorKind.INTERRUPTED,
                f"Another deploy changed the current revision of endpoint {name}.",
                "Check what the endpoint serves now, then repeat the change.",
            )
        return change(before).model_copy(update={"updated_at": datetime.now(timezone.utc)})

    return update_record(store, endpoint_path(check_name(name)), Endpoint, amended)


def _successor(name: str, revision: Revision, before: Endpoint | None) -> Endpoint:
    history = () if before is None else (*before.history, before.current)[-_MAX_HISTORY:]
    return Endpoint(name=name, current=revision, history=history, updated_at=datetime.now(timezone.utc))
