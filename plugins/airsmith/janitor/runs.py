"""Which runs are active: according to Airflow, or because of a recent write to the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.inventory import Folder

MAX_CONCURRENT_REQUESTS = 16
MAX_QUEUED = timedelta(days=30)
"""Maximum time that a training waits in a queue without a write."""
FINISHED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States of a finished task in Airflow. In any other state, known or not, its pod may be needed."""
_RUNS_PER_QUERY = 50

TaskStates = Callable[[str, Sequence[str]], Mapping[str, Mapping[str, "str | None"]]]
"""Maps a DAG's id and the ids of its runs to the states of their tasks, without runs that do not exist in Airflow.

It raises an error if Airflow does not respond, because a missing response does not prove that a run is finished.
"""


@dataclass(frozen=True)
class KnownRun:
    """A run in the store.

    :param spec: None if this version of Airsmith cannot read it, or `resolve` has not written it.
    """

    folder: Folder
    spec: RunSpec | None

    def run(self, store: Store) -> Run:
        """The run, opened from its folder."""
        return Run(store, self.folder.path)

    def has_pointer(self, stage: str) -> bool:
        """Whether a stage has an output."""
        return self.folder.has(f"stages/{stage}.json")


FindActive = Callable[[Sequence[KnownRun], datetime], Collection[str]]
"""Maps runs and the store's time to the paths of the active ones."""


def read_runs(store: Store, folders: Iterable[Folder], written_since: datetime) -> list[KnownRun]:
    """Read the runs' specs.

    :param written_since: a run with a later write must be readable, because its references are needed.
    :raises AirsmithError: `verification_failed` if such a run cannot be read.
    """

    def read(folder: Folder) -> KnownRun:
        if not folder.has("spec.json"):
            return KnownRun(folder, None)
        try:
            return KnownRun(folder, Run(store, folder.path).read_spec())
        except AirsmithError as error:
            if error.kind not in (ErrorKind.VERIFICATION_FAILED, ErrorKind.NOT_FOUND) or folder.newest >= written_since:
                raise
            return KnownRun(folder, None)

    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as pool:
        return list(pool.map(read, folders))


def query_task_states(
    dag_id: str, run_ids: Sequence[str], task_states: TaskStates
) -> dict[str, Mapping[str, str | None]]:
    """States of the tasks of any number of runs, in queries that are short enough for a URL."""
    found: dict[str, Mapping[str, str | None]] = {}
    for start in range(0, len(run_ids), _RUNS_PER_QUERY):
        found.update(task_states(dag_id, run_ids[start : start + _RUNS_PER_QUERY]))
    return found


def active_in_airflow(task_states: TaskStates) -> FindActive:
    """By the states of tasks in Airflow: a run is active until all its tasks are finished or it is deleted."""

    def active(runs: Sequence[KnownRun], now: datetime) -> Collection[str]:
        by_dag: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for known in runs:
            if known.spec is not None:
                by_dag[known.spec.dag_id][known.spec.run_id].append(known.folder.path)
        found: set[str] = set()
        for dag_id, paths in by_dag.items():
            for run_id, tasks in query_task_states(dag_id, sorted(paths), task_states).items():
                if run_id in paths and not FINISHED_STATES.issuperset(tasks.values()):
                    found.update(paths[run_id])
        return found

    return active


def active_in_store(runs: Sequence[KnownRun], now: datetime) -> Collection[str]:
    """By the store alone: a run without all outputs is active until `MAX_QUEUED` after its last write."""
    return {
        known.folder.path
        for known in runs
        if known.folder.newest > now - MAX_QUEUED
        and (known.spec is None or not all(known.has_pointer(plan.stage) for plan in known.spec.plan.stages))
    }


def active_runs(runs: Sequence[KnownRun], find_active: FindActive, now: datetime, quiet: timedelta) -> list[KnownRun]:
    """The runs whose inputs, outputs and checkpoints must stay.

    :param quiet: a run with a write within this time is active, whatever `find_active` reports.
    """
    active = find_active(runs, now)
    return [known for known in runs if known.folder.path in active or known.folder.newest > now - quiet]
