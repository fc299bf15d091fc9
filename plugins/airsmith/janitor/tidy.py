"""The janitor's round through a store: look, decide, and remove those kinds that it is told to remove."""

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
    known_uploads,
    old_checkpoints,
    unfinished_folders,
    unused_artifacts,
)
from airsmith.janitor.inventory import list_records, take_inventory
from airsmith.janitor.reap import abort_uploads, remove_published, remove_unfinished
from airsmith.janitor.references import (
    References,
    finished_checkpoints,
    references_of_late,
    references_of_work,
    registry_references,
)
from airsmith.janitor.report import Section
from airsmith.janitor.runs import FindAlive, KnownRun, read_runs, runs_at_work
from airsmith.settings import JanitorSettings


def tidy_store(store: Store, settings: JanitorSettings, find_alive: FindAlive, told: Collection[str]) -> list[Section]:
    """Find what nobody needs in a store, and remove some kinds of it.

    :param find_alive: tells which runs are not over.
    :param told: kinds to remove; of the others it is only said what there is.
    :raises AirsmithError: where the store, or whoever knows the runs, does not answer, or what a version, an endpoint
        or a run at work points to cannot be understood: then nothing that it may point to is removed.
    """
    ages = ages_of(settings)
    inventory = take_inventory(store)
    look = _Look(store, find_alive, ages, inventory.now)
    seen = look.at_records()
    uploads = open_uploads(store)
    under_way = known_uploads(uploads, inventory.now, ages.grace)
    done = finished_checkpoints(store, seen.runs) if inventory.checkpoints else References()
    unfinished = unfinished_folders(store, inventory, under_way, seen.work, seen.registry, ages.grace)
    abandoned = abandoned_uploads(under_way, inventory.now, ages.grace, seen.work)
    checkpoints = old_checkpoints(inventory, seen.all, done, ages)
    caches = unused_artifacts(inventory, seen.all, ages)
    return [
        section("unfinished", list(unfinished), lambda garbage: remove_unfinished(store, garbage), told),
        section("uploads", list(abandoned), lambda garbage: abort_uploads(uploads, garbage), told),
        section("checkpoints", list(checkpoints), lambda garbage: remove_published(store, garbage, look.again), told),
        section("caches", list(caches), lambda garbage: remove_published(store, garbage, look.again), told),
    ]


def section(
    kind: Kind, garbage: Sequence[Garbage], remove: Callable[[Sequence[Garbage]], list[Garbage]], told: Collection[str]
) -> Section:
    """Remove garbage of a kind that the janitor is told to remove, and say so."""
    removed = tuple(remove(garbage)) if kind in told else ()
    return Section(kind, tuple(garbage), removed, kind in told)


def ages_of(settings: JanitorSettings) -> Ages:
    """How long things may lie unused."""
    return Ages(
        grace=timedelta(hours=settings.grace_hours),
        checkpoints=timedelta(days=settings.checkpoint_days),
        finished_checkpoints=timedelta(days=settings.finished_checkpoint_days),
        caches=timedelta(days=settings.cache_days),
    )


@dataclass(frozen=True)
class _Seen:
    """Who points to what, at one moment.

    :param work: what runs at work need.
    :param registry: what versions and endpoints point to.
    :param late: what runs of the retention time point to.
    """

    runs: tuple[KnownRun, ...]
    work: References
    registry: References
    late: References

    @property
    def all(self) -> References:
        """What anybody needs."""
        return self.work | self.registry | self.late


@dataclass
class _Look:
    """Looks at who points to what, and again before something is lost for good.

    :param now: when the round began, by the store's clock.
    """

    store: Store
    find_alive: FindAlive
    ages: Ages
    now: datetime
    _known: dict[str, KnownRun] = field(default_factory=dict)

    def at_records(self) -> _Seen:
        """Who points to what now. Runs that have not changed since the last look are not read again."""
        records = list_records(self.store)
        changed = [
            folder
            for folder in records.runs
            if folder.path not in self._known or self._known[folder.path].folder != folder
        ]
        for known in read_runs(self.store, changed, self.now - self.ages.grace):
            self._known[known.folder.path] = known
        runs = tuple(self._known[folder.path] for folder in records.runs)
        late = [known for known in runs if known.folder.newest > self.now - self.ages.caches]
        return _Seen(
            runs,
            references_of_work(self.store, runs_at_work(runs, self.find_alive, self.now, self.ages.grace)),
            registry_references(self.store, records),
            references_of_late(self.store, late),
        )

    def again(self) -> References:
        """What anybody needs by now."""
        return self.at_records().all
