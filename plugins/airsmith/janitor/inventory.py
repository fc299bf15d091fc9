"""The contents of a store, from one listing per kind of folder, without a request per object."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone

from airsmith.artifacts.layout import ATTEMPT_PREFIX, MANIFEST, clock_path, trial_folder, trial_of
from airsmith.artifacts.store import ObjectInfo, Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry.versions import VERSION_FILE

_MIN_TIME = datetime.min.replace(tzinfo=timezone.utc)


@dataclass
class Folder:
    """A folder and its objects.

    :param path: its path in the store.
    """

    path: str
    objects: list[ObjectInfo] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Total size of the objects."""
        return sum(info.size_bytes for info in self.objects)

    @property
    def newest(self) -> datetime:
        """Time of the last write, by the store's clock."""
        return max((info.modified for info in self.objects), default=_MIN_TIME)

    @property
    def is_published(self) -> bool:
        """Whether it has a manifest, which makes it complete."""
        return f"{self.path}/{MANIFEST}" in self.paths

    @property
    def paths(self) -> set[str]:
        """Paths of the objects in the store."""
        return {info.path for info in self.objects}

    def attempts(self) -> list[Folder]:
        """The content of each attempt to write it; the manifest names the published one."""
        found: dict[str, Folder] = {}
        for info in self.objects:
            name, _, inner = info.path.removeprefix(f"{self.path}/").partition("/")
            if inner and name.startswith(ATTEMPT_PREFIX):
                found.setdefault(name, Folder(f"{self.path}/{name}")).objects.append(info)
        return list(found.values())

    def trials(self) -> list[Folder]:
        """The folders of a run's trials."""
        found: dict[str, Folder] = {}
        for info in self.objects:
            trial = trial_of(self.path, info.path)
            if trial:
                found.setdefault(trial, Folder(trial_folder(self.path, trial))).objects.append(info)
        return list(found.values())

    def has(self, name: str) -> bool:
        """Whether it contains a file of this name."""
        return f"{self.path}/{name}" in self.paths


@dataclass(frozen=True)
class Inventory:
    """The artifacts and checkpoints in a store.

    :param now: time of the listing, by the store's clock.
    :param artifacts: one folder per type and digest.
    :param checkpoints: one folder per checkpoint key and step.
    """

    now: datetime
    artifacts: tuple[Folder, ...]
    checkpoints: tuple[Folder, ...]

    @property
    def object_count(self) -> int:
        """Total number of objects."""
        return sum(len(folder.objects) for folder in (*self.artifacts, *self.checkpoints))

    @property
    def size_bytes(self) -> int:
        """Total size of all objects."""
        return sum(folder.size_bytes for folder in (*self.artifacts, *self.checkpoints))


@dataclass(frozen=True)
class Records:
    """The records in a store that refer to artifacts and checkpoints. Listed after these, to miss no reference.

    :param runs: one folder per run, and one per trial.
    :param versions: folders of the registry's versions.
    :param endpoints: records of the endpoints.
    """

    runs: tuple[Folder, ...]
    versions: tuple[Folder, ...]
    endpoints: tuple[Folder, ...]


def take_inventory(store: Store) -> Inventory:
    """List the artifacts and checkpoints."""
    return Inventory(store_time(store), _grouped(store, "artifacts", 3), _grouped(store, "checkpoints", 3))


def list_records(store: Store) -> Records:
    """List the runs, versions and endpoints."""
    versions = (folder for folder in _grouped(store, "models", 3) if folder.has(VERSION_FILE))
    endpoints = (folder for folder in _grouped(store, "endpoints", 2) if folder.path.endswith(".json"))
    runs = (each for run in _grouped(store, "runs", 3) for each in (run, *run.trials()))
    return Records(tuple(runs), tuple(versions), tuple(endpoints))


def store_time(store: Store) -> datetime:
    """The time of the store's clock, which dates its objects; the worker's clock may differ.

    :raises AirsmithError: `store_unavailable` if the store does not list an object after writing it.
    """
    path = clock_path()
    store.write(path, b"")
    folder = path.rpartition("/")[0]
    for info in store.list(folder):
        if info.path == path:
            return info.modified
    raise AirsmithError(
        ErrorKind.STORE_UNAVAILABLE,
        f"The store {store.uri} does not list {path} after writing it.",
        "Use a store with strongly consistent listings.",
    )


def _grouped(store: Store, top: str, depth: int) -> tuple[Folder, ...]:
    """The objects under a folder, grouped by the first parts of their paths.

    :param depth: number of parts that identify a group.
    """
    found: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in store.list(top):
        found["/".join(info.path.split("/", depth)[:depth])].append(info)
    return tuple(Folder(path, members) for path, members in found.items())
