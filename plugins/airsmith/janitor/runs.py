"""Which runs are at work: those that Airflow says are, and those that have written to the store lately."""

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

REQUESTS_AT_ONCE = 16
LONGEST_QUEUED = timedelta(days=30)
"""A training may wait as long for its turn, and write nothing."""
ENDED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""Of a task in Airflow. Any other, known or not, means that its pod may be needed."""
_RUNS_PER_QUESTION = 50

TaskStates = Callable[[str, Sequence[str]], Mapping[str, Mapping[str, "str | None"]]]
"""From a DAG's id and ids of its runs to the states of their tasks; runs that Airflow does not know are left out.

It raises where Airflow cannot be asked: silence is no proof that a run has ended.
"""


@dataclass(frozen=True)
class KnownRun:
    """A run in the store.

    :param spec: None where this version of Airsmith cannot read it, or `resolve` did not come so far.
    """

    folder: Folder
    spec: RunSpec | None

    def run(self, store: Store) -> Run:
        """Its folder, opened."""
        return Run(store, self.folder.path)

    def has_pointer(self, stage: str) -> bool:
        """Whether a stage has its output."""
        return self.folder.has(f"stages/{stage}.json")


FindAlive = Callable[[Sequence[KnownRun], datetime], Collection[str]]
"""From runs and the store's time to the paths of those that are not over."""


def read_runs(store: Store, folders: Iterable[Folder], written_since: datetime) -> list[KnownRun]:
    """Read the runs' specs.

    :param written_since: from then on, a run that cannot be understood is an error: what it needs is unknown.
    :raises AirsmithError: `verification_failed` for such a run.
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

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(read, folders))


def ask_airflow(dag_id: str, run_ids: Sequence[str], task_states: TaskStates) -> dict[str, Mapping[str, str | None]]:
    """States of the tasks of any number of runs; each question is short enough for a URL."""
    found: dict[str, Mapping[str, str | None]] = {}
    for begin in range(0, len(run_ids), _RUNS_PER_QUESTION):
        found.update(task_states(dag_id, run_ids[begin : begin + _RUNS_PER_QUESTION]))
    return found


def alive_in_airflow(task_states: TaskStates) -> FindAlive:
    """Ask Airflow: a run is over when each of its tasks is, or when it is not there any more."""

    def alive(runs: Sequence[KnownRun], now: datetime) -> Collection[str]:
        by_dag: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for known in runs:
            if known.spec is not None:
                by_dag[known.spec.dag_id][known.spec.run_id].append(known.folder.path)
        found: set[str] = set()
        for dag_id, paths in by_dag.items():
            for run_id, tasks in ask_airflow(dag_id, sorted(paths), task_states).items():
                if run_id in paths and not ENDED_STATES.issuperset(tasks.values()):
                    found.update(paths[run_id])
        return found

    return alive


def alive_by_the_store(runs: Sequence[KnownRun], now: datetime) -> Collection[str]:
    """Ask nobody: a run that lacks an output may go on, as long as one may wait for its turn."""
    return {
        known.folder.path
        for known in runs
        if known.folder.newest > now - LONGEST_QUEUED
        and (known.spec is None or not all(known.has_pointer(plan.stage) for plan in known.spec.plan.stages))
    }


def runs_at_work(runs: Sequence[KnownRun], find_alive: FindAlive, now: datetime, quiet: timedelta) -> list[KnownRun]:
    """The runs whose inputs, outputs and checkpoints must stay.

    :param quiet: a run that wrote within that time is taken for alive, whatever else is said of it.
    """
    alive = find_alive(runs, now)
    return [known for known in runs if known.folder.path in alive or known.folder.newest > now - quiet]
