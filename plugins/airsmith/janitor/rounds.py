"""A round of the janitor: cluster first, whose pods cost most, then the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.report import Section
from airsmith.janitor.runs import TaskStates, alive_by_the_store, alive_in_airflow
from airsmith.janitor.tidy import ages_of, tidy_store
from airsmith.settings import GarbageKind, Settings

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True)
class KnowingAirflow:
    """The Airflow that knows which tasks are at work.

    :param name: what tells it from others, see `airsmith.airflow.task_owner`.
    :param task_states: asks it.
    """

    name: str
    task_states: TaskStates


def make_round(
    settings: Settings, told: Collection[str], client: ApiClient | None, airflow: KnowingAirflow | None
) -> Iterator[Section]:
    """Deal with one kind of garbage after the other. Orphaned pods are always removed, the rest where told.

    :param told: kinds to remove.
    :param client: of the cluster; None where there is none, and the store's part is all.
    :param airflow: None where it cannot be asked: then no pod is judged, and runs without an end count as at work.
    :raises AirsmithError: where somebody who has to be asked does not answer.
    """
    store = Store.open(settings.store)
    if client is not None:
        yield from _tidy_cluster(store, settings, told, client, airflow)
    find_alive = alive_by_the_store if airflow is None else alive_in_airflow(airflow.task_states)
    yield from tidy_store(store, settings.janitor, find_alive, told)


def checked_kinds(names: Sequence[str]) -> Sequence[str]:
    """The names, where each is a kind of garbage.

    :raises AirsmithError: `bad_recipe`, naming the kinds that there are.
    """
    kinds = get_args(GarbageKind)
    for name in names:
        if name not in kinds:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE, f"The janitor knows no garbage of the kind {name!r}.", f"Use {', '.join(kinds)}."
            )
    return names


def _tidy_cluster(
    store: Store, settings: Settings, told: Collection[str], client: ApiClient, airflow: KnowingAirflow | None
) -> Iterator[Section]:
    from airsmith.janitor.endpoints import tidy_endpoints  # Where no cluster is, its client may not be installed.
    from airsmith.janitor.pods import tidy_pods

    namespace = settings.kubernetes.namespace
    if airflow is not None:
        yield tidy_pods(namespace, airflow.name, airflow.task_states, client)
    yield tidy_endpoints(store, namespace, ages_of(settings.janitor).grace, told, client)
