"""What a store holds, from one listing per kind of folder: no request per object."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone

from airsmith.artifacts.layout import ATTEMPT_PREFIX, MANIFEST, clock_path, trial_folder, trial_of
from airsmith.artifacts.store import ObjectInfo, Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry.versions import VERSION_FILE

_EVER = datetime.min.replace(tzinfo=timezone.utc)


@dataclass
class Folder:
    """Objects that belong together.

    :param path: in the store.
    """

    path: str
    objects: list[ObjectInfo] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Room that they take."""
        return sum(info.size_bytes for info in self.objects)

    @property
    def newest(self) -> datetime:
        """When one of them was last written, by the store's clock."""
        return max((info.modified for info in self.objects), default=_EVER)

    @property
    def is_published(self) -> bool:
        """Whether it has a manifest, and so is whole."""
        return f"{self.path}/{MANIFEST}" in self.paths

    @property
    def paths(self) -> set[str]:
        """Paths of the objects."""
        return {info.path for info in self.objects}

    def attempts(self) -> list[Folder]:
        """The content of each try at making it; the one that the manifest names is the artifact's."""
        found: dict[str, Folder] = {}
        for info in self.objects:
            name, _, inner = info.path.removeprefix(f"{self.path}/").partition("/")
            if inner and name.startswith(ATTEMPT_PREFIX):
                found.setdefault(name, Folder(f"{self.path}/{name}")).objects.append(info)
        return list(found.values())

    def trials(self) -> list[Folder]:
        """Of a run, the folders of its trials."""
        found: dict[str, Folder] = {}
        for info in self.objects:
            trial = trial_of(self.path, info.path)
            if trial:
                found.setdefault(trial, Folder(trial_folder(self.path, trial))).objects.append(info)
        return list(found.values())

    def has(self, name: str) -> bool:
        """Whether it has a file of this name."""
        return f"{self.path}/{name}" in self.paths


@dataclass(frozen=True)
class Inventory:
    """What of a store may become garbage, at one moment.

    :param now: the moment, by the store's clock.
    :param artifacts: by type and digest.
    :param checkpoints: by key and step.
    """

    now: datetime
    artifacts: tuple[Folder, ...]
    checkpoints: tuple[Folder, ...]

    @property
    def object_count(self) -> int:
        """Objects in all."""
        return sum(len(folder.objects) for folder in (*self.artifacts, *self.checkpoints))

    @property
    def size_bytes(self) -> int:
        """Room that all take."""
        return sum(folder.size_bytes for folder in (*self.artifacts, *self.checkpoints))


@dataclass(frozen=True)
class Records:
    """What of a store points to artifacts and checkpoints. Listed after them, so that it is never the older news.

    :param runs: by DAG and run, and the trials of a run as runs of their own.
    :param versions: folders of the registry's versions.
    :param endpoints: the endpoints' records.
    """

    runs: tuple[Folder, ...]
    versions: tuple[Folder, ...]
    endpoints: tuple[Folder, ...]


def take_inventory(store: Store) -> Inventory:
    """List artifacts and checkpoints."""
    return Inventory(store_time(store), _grouped(store, "artifacts", 3), _grouped(store, "checkpoints", 3))


def list_records(store: Store) -> Records:
    """List what points to them."""
    versions = (folder for folder in _grouped(store, "models", 3) if folder.has(VERSION_FILE))
    endpoints = (folder for folder in _grouped(store, "endpoints", 2) if folder.path.endswith(".json"))
    runs = (each for run in _grouped(store, "runs", 3) for each in (run, *run.trials()))
    return Records(tuple(runs), tuple(versions), tuple(endpoints))


def store_time(store: Store) -> datetime:
    """What the store's clock says, by which its objects are dated; a worker's may differ.

    :raises AirsmithError: `store_unavailable` where the store does not list what it took.
    """
    path = clock_path()
    store.write(path, b"")
    folder = path.rpartition("/")[0]
    for info in store.list(folder):
        if info.path == path:
            return info.modified
    raise AirsmithError(
        ErrorKind.STORE_UNAVAILABLE,
        f"The store {store.uri} took {path}, but does not list it.",
        "Its listings must show what was written before.",
    )


def _grouped(store: Store, top: str, depth: int) -> tuple[Folder, ...]:
    """The objects under a folder, by the first parts of their paths.

    :param depth: how many parts name what is kept or removed as a whole.
    """
    found: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in store.list(top):
        found["/".join(info.path.split("/", depth)[:depth])].append(info)
    return tuple(Folder(path, members) for path, members in found.items())
