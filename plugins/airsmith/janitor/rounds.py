"""A round of the janitor: cluster first, whose pods cost most, then the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from kubernetes.client import ApiClient

from airsmith.artifacts.store import Store
from airsmith.janitor.endpoints import tidy_endpoints
from airsmith.janitor.pods import tidy_pods
from airsmith.janitor.report import Section
from airsmith.janitor.runs import TaskStates, alive_by_the_store, alive_in_airflow
from airsmith.janitor.tidy import ages_of, tidy_store
from airsmith.settings import Settings


@dataclass(frozen=True)
class KnowingAirflow:
    """The Airflow that knows which tasks are at work.

    :param name: what tells it from others, see `airsmith.runtimes.task_owner`.
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
        namespace = settings.kubernetes.namespace
        if airflow is not None:
            yield tidy_pods(namespace, airflow.name, airflow.task_states, client)
        yield tidy_endpoints(store, namespace, ages_of(settings.janitor).grace, told, client)
    find_alive = alive_by_the_store if airflow is None else alive_in_airflow(airflow.task_states)
    yield from tidy_store(store, settings.janitor, find_alive, told)
