"""Find the run that a person means."""

from __future__ import annotations

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind


def find_run(store_uri: str, wanted: str = "") -> Run:
    """The run of this URI; of this folder, or any part of its name, the newest; without a name, the newest of all.

    :param wanted: a run's URI, or a part of `<dag>/<run>`, for example `finetune_ticket_triage`.
    :raises AirsmithError: `not_found`, naming the store that was searched.
    """
    if "://" in wanted:
        return Run.open(wanted)
    store = Store.open(store_uri)
    specs = [
        info
        for info in store.list("runs")
        if info.path.endswith("/spec.json")
        and wanted in info.path
        and not Run(store, info.path.rpartition("/")[0]).trial_name
    ]
    if not specs:
        what = f"run whose name contains {wanted!r}" if wanted else "run"
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"There is no {what} in {store.uri}.", "Start one with `airsmith run RECIPE`."
        )
    newest = max(specs, key=lambda info: info.modified)
    return Run(store, newest.path.rsplit("/", 1)[0])
