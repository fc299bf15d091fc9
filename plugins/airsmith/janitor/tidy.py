"""The janitor's round through a store: list it, find the garbage, and delete the requested kinds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from airsmith.artifacts.store import Store
from airsmith.artifacts.uploads import open_uploads
from airsmith.janitor.garbage import (
    Ages,
    Garbage,
    Kind,
    abandoned_uploads,
    list_uploads,
    old_checkpoints,
    unfinished_folders,
    unused_artifacts,
)
from airsmith.janitor.inventory import list_records, take_inventory
from airsmith.janitor.reap import abort_uploads, delete_published, delete_unfinished
from airsmith.janitor.references import (
    References,
    active_run_references,
    finished_checkpoints,
    recent_run_references,
    registry_references,
)
from airsmith.janitor.report import Section
from airsmith.janitor.runs import FindActive, KnownRun, active_runs, read_runs
from airsmith.settings import JanitorSettings


def tidy_store(
    store: Store, settings: JanitorSettings, find_active: FindActive, kinds_to_delete: Collection[str]
) -> list[Section]:
    """Find the garbage in a store, and delete the requested kinds.

    :param find_active: finds the active runs.
    :param kinds_to_delete: other kinds are only reported.
    :raises AirsmithError: if the store or Airflow does not respond, or a version, an endpoint or an active run cannot
        be read; nothing that it may refer to is deleted then.
    """
    ages = ages_of(settings)
    inventory = take_inventory(store)
    reader = _ReferenceReader(store, find_active, ages, inventory.now)
    references = reader.read()
    uploads = open_uploads(store)
    incomplete = list_uploads(uploads, inventory.now, ages.grace)
    finished = finished_checkpoints(store, references.runs) if inventory.checkpoints else References()
    unfinished = unfinished_folders(store, inventory, incomplete, references.active, references.registry, ages.grace)
    abandoned = abandoned_uploads(incomplete, inventory.now, ages.grace, references.active)
    checkpoints = old_checkpoints(inventory, references.all, finished, ages)
    caches = unused_artifacts(inventory, references.all, ages)

    def delete(garbage: Sequence[Garbage]) -> list[Garbage]:
        return delete_published(store, garbage, lambda: reader.read().all)

    return [
        section("unfinished", list(unfinished), lambda garbage: delete_unfinished(store, garbage), kinds_to_delete),
        section("uploads", list(abandoned), lambda garbage: abort_uploads(uploads, garbage), kinds_to_delete),
        section("checkpoints", list(checkpoints), delete, kinds_to_delete),
        section("caches", list(caches), delete, kinds_to_delete),
    ]


def section(
    kind: Kind,
    garbage: Sequence[Garbage],
    delete: Callable[[Sequence[Garbage]], list[Garbage]],
    kinds_to_delete: Collection[str],
) -> Section:
    """Delete the garbage of a kind if requested, and return the report."""
    deleted = tuple(delete(garbage)) if kind in kinds_to_delete else ()
    return Section(kind, tuple(garbage), deleted, kind in kinds_to_delete)


def ages_of(settings: JanitorSettings) -> Ages:
    """The retention times of the settings."""
    return Ages(
        grace=timedelta(hours=settings.grace_hours),
        checkpoints=timedelta(days=settings.checkpoint_days),
        finished_checkpoints=timedelta(days=settings.finished_checkpoint_days),
        caches=timedelta(days=settings.cache_days),
    )


@dataclass(frozen=True)
class _ReferenceSnapshot:
    """All references at one time.

    :param active: references of active runs.
    :param registry: references of versions and endpoints.
    :param recent: references of runs within the retention time of artifacts.
    """

    runs: tuple[KnownRun, ...]
    active: References
    registry: References
    recent: References

    @property
    def all(self) -> References:
        """The union of all references."""
        return self.active | self.registry | self.recent


@dataclass
class _ReferenceReader:
    """Reads the references: once to find garbage, and again before each irreversible deletion.

    :param now: start of the round, by the store's clock.
    """

    store: Store
    find_active: FindActive
    ages: Ages
    now: datetime
    _known: dict[str, KnownRun] = field(default_factory=dict)

    def read(self) -> _ReferenceSnapshot:
        """The current references. Runs that have not changed since the last read are not read again."""
        records = list_records(self.store)
        changed = [
            folder
            for folder in records.runs
            if folder.path not in self._known or self._known[folder.path].folder != folder
        ]
        for known in read_runs(self.store, changed, self.now - self.ages.grace):
            self._known[known.folder.path] = known
        runs = tuple(self._known[folder.path] for folder in records.runs)
        recent = [known for known in runs if known.folder.newest > self.now - self.ages.caches]
        return _ReferenceSnapshot(
            runs,
            active_run_references(self.store, active_runs(runs, self.find_active, self.now, self.ages.grace)),
            registry_references(self.store, records),
            recent_run_references(self.store, recent),
        )
