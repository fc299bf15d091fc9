"""Find a run by its URI or a part of its name."""

from __future__ import annotations

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind


def find_run(store_uri: str, query: str = "") -> Run:
    """The run with this URI, or the newest run whose path contains the query.

    :param query: a run's URI, or a part of `<dag>/<run>`, for example `finetune_ticket_triage`; empty matches all runs.
    :raises AirsmithError: `not_found` if no run matches.
    """
    if "://" in query:
        return Run.open(query)
    store = Store.open(store_uri)
    specs = [
        info
        for info in store.list("runs")
        if info.path.endswith("/spec.json")
        and query in info.path
        and not Run(store, info.path.rpartition("/")[0]).trial_name
    ]
    if not specs:
        matching = f" whose path contains {query!r}" if query else ""
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"{store.uri} has no run{matching}.", "Start one with `airsmith run RECIPE`."
        )
    newest = max(specs, key=lambda info: info.modified)
    return Run(store, newest.path.rsplit("/", 1)[0])
