"""One round of the janitor: first the cluster, where orphaned pods cost most, then the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.report import Section
from airsmith.janitor.runs import TaskStates, active_in_airflow, active_in_store
from airsmith.janitor.tidy import ages_of, tidy_store
from airsmith.settings import GarbageKind, Settings

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True)
class AirflowInstance:
    """The Airflow installation whose tasks own the pods.

    :param name: identifies the installation, see `airsmith.airflow.task_owner`.
    :param task_states: queries the states of its tasks.
    """

    name: str
    task_states: TaskStates


def run_janitor(
    settings: Settings, kinds_to_delete: Collection[str], client: ApiClient | None, airflow: AirflowInstance | None
) -> Iterator[Section]:
    """Process one kind of garbage after the other. Orphaned pods are always deleted, other kinds only if requested.

    :param client: client of the cluster; None without a cluster, which limits the round to the store.
    :param airflow: None if it is not available; pods are then ignored, and runs without all outputs count as active.
    :raises AirsmithError: if the store, the cluster or Airflow does not respond.
    """
    store = Store.open(settings.store)
    if client is not None:
        yield from _tidy_cluster(store, settings, kinds_to_delete, client, airflow)
    find_active = active_in_store if airflow is None else active_in_airflow(airflow.task_states)
    yield from tidy_store(store, settings.janitor, find_active, kinds_to_delete)


def check_kinds(names: Sequence[str]) -> Sequence[str]:
    """The names, if each is a kind of garbage.

    :raises AirsmithError: `bad_recipe` for any other name; the hint lists the kinds.
    """
    kinds = get_args(GarbageKind)
    for name in names:
        if name not in kinds:
            raise AirsmithError(ErrorKind.BAD_RECIPE, f"{name!r} is not a kind of garbage.", f"Use {', '.join(kinds)}.")
    return names


def _tidy_cluster(
    store: Store,
    settings: Settings,
    kinds_to_delete: Collection[str],
    client: ApiClient,
    airflow: AirflowInstance | None,
) -> Iterator[Section]:
    from airsmith.janitor.endpoints import tidy_endpoints  # Without a cluster, its client may not be installed.
    from airsmith.janitor.pods import tidy_pods

    namespace = settings.kubernetes.namespace
    if airflow is not None:
        yield tidy_pods(namespace, airflow.name, airflow.task_states, client)
    yield tidy_endpoints(store, namespace, ages_of(settings.janitor).grace, kinds_to_delete, client)
