"""What nobody needs: decided from what lies in the store and what is pointed to. Removes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Union

from pydantic import ValidationError

from airsmith.artifacts.layout import MANIFEST
from airsmith.artifacts.manifest import Manifest
from airsmith.artifacts.store import Store
from airsmith.artifacts.uploads import Upload, UploadedParts, Uploads
from airsmith.janitor.inventory import Folder, Inventory
from airsmith.janitor.references import References
from airsmith.settings import GarbageKind

Kind = Union[GarbageKind, Literal["pods"]]


@dataclass(frozen=True)
class Garbage:
    """One thing that nobody needs.

    :param name: of a pod, a Deployment, or a folder or object in the store.
    :param reason: why it is not needed.
    :param folder: of the artifact or checkpoint that it is, or that it is a part of.
    :param paths: objects to remove.
    :param upload: to abort.
    """

    kind: Kind
    name: str
    reason: str
    size_bytes: int = 0
    folder: str = ""
    paths: tuple[str, ...] = ()
    upload: Upload | None = None

    @property
    def manifest(self) -> str:
        """What makes it valid, where it is."""
        return f"{self.folder}/{MANIFEST}"


@dataclass(frozen=True)
class Ages:
    """How long things may lie unused.

    :param grace: after the last sign of life of what is being written.
    :param checkpoints: of a training that has not ended.
    :param finished_checkpoints: of one that has its output.
    :param caches: artifacts that only runs of the past have used, since the last of them.
    """

    grace: timedelta
    checkpoints: timedelta
    finished_checkpoints: timedelta
    caches: timedelta


def unfinished_folders(
    store: Store,
    inventory: Inventory,
    uploads: Mapping[Upload, UploadedParts],
    work: References,
    registry: References,
    grace: timedelta,
) -> Iterator[Garbage]:
    """Content that was never published, of artifacts and checkpoints, and whose writer is silent.

    :param uploads: those that are under way: each is a sign of life.
    :param work: what runs at work need, and may be writing.
    :param registry: what versions and endpoints point to; where its manifest is lost, somebody may restore it.
    """
    written = _newest_uploads(uploads)
    for folder in (*inventory.artifacts, *inventory.checkpoints):
        if work.hold(folder.path) or (registry.hold(folder.path) and not folder.is_published):
            continue
        for attempt in _losers(store, folder):
            newest = max(attempt.newest, written.get(attempt.path, attempt.newest))
            if newest < inventory.now - grace:
                yield Garbage(
                    "unfinished",
                    attempt.path,
                    f"never published, last written {_ago(inventory.now, newest)}",
                    attempt.size_bytes,
                    folder.path,
                    tuple(sorted(attempt.paths)),
                )


def abandoned_uploads(
    uploads: Mapping[Upload, UploadedParts], now: datetime, grace: timedelta, needed: References
) -> Iterator[Garbage]:
    """Uploads that were begun, and of which nothing has come for long."""
    for upload, brought in uploads.items():
        folder = "/".join(upload.path.split("/")[:3])
        if brought.newest < now - grace and not needed.hold(folder):
            reason = f"never completed, last part {_ago(now, brought.newest)}"
            yield Garbage("uploads", upload.path, reason, brought.size_bytes, upload=upload)


def known_uploads(uploads: Uploads, now: datetime, grace: timedelta) -> dict[Upload, UploadedParts]:
    """All uploads of artifacts and checkpoints. Only those that were begun long ago are asked for their parts."""
    found = {}
    for upload in uploads.list():
        if upload.path.startswith(("artifacts/", "checkpoints/")):
            is_young = upload.begun >= now - grace
            found[upload] = UploadedParts(0, upload.begun) if is_young else uploads.parts(upload)
    return found


def old_checkpoints(inventory: Inventory, needed: References, finished: References, ages: Ages) -> Iterator[Garbage]:
    """Checkpoints that no run at work goes on from.

    :param finished: the checkpoints of trainings that have their output.
    """
    by_key: dict[str, list[Folder]] = defaultdict(list)
    for folder in inventory.checkpoints:
        by_key[folder.path.rpartition("/")[0]].append(folder)
    for key, folders in by_key.items():
        newest = max(folder.newest for folder in folders)
        is_done = key in finished.checkpoints
        if newest >= inventory.now - (ages.finished_checkpoints if is_done else ages.checkpoints):
            continue
        state = "training done" if is_done else "no run at work"
        for folder in folders:
            if folder.is_published and not needed.hold(folder.path):
                yield _published("checkpoints", folder, f"{state}, last one written {_ago(inventory.now, newest)}")


def unused_artifacts(inventory: Inventory, needed: References, ages: Ages) -> Iterator[Garbage]:
    """Published artifacts that nothing points to.

    :param needed: by versions, endpoints, runs at work and those of the retention time.
    """
    for folder in inventory.artifacts:
        if folder.is_published and not needed.hold(folder.path) and folder.newest < inventory.now - ages.caches:
            yield _published("caches", folder, f"nothing points to it, written {_ago(inventory.now, folder.newest)}")


def published_content(store: Store, folder: str) -> str | None:
    """Where an artifact's content lies; the folder itself where its manifest is damaged, None where it has none."""
    found = store.find(f"{folder}/{MANIFEST}")
    if found is None:
        return None
    try:
        return f"{folder}/{Manifest.model_validate_json(found[0]).content_root}"
    except ValidationError:
        return folder


def _published(kind: Kind, folder: Folder, reason: str) -> Garbage:
    paths = tuple(sorted(folder.paths, key=lambda path: (not path.endswith(f"/{MANIFEST}"), path)))
    return Garbage(kind, folder.path, reason, folder.size_bytes, folder.path, paths)


def _losers(store: Store, folder: Folder) -> list[Folder]:
    """The attempts that did not become the artifact."""
    attempts = folder.attempts()
    if not folder.is_published:
        return attempts
    if len(attempts) < 2:
        return []
    content = published_content(store, folder.path)
    return [] if content in (None, folder.path) else [attempt for attempt in attempts if attempt.path != content]


def _newest_uploads(uploads: Mapping[Upload, UploadedParts]) -> dict[str, datetime]:
    """The last sign of life of each attempt that is being uploaded to."""
    found: dict[str, datetime] = {}
    for upload, brought in uploads.items():
        attempt = "/".join(upload.path.split("/")[:4])
        found[attempt] = max(found.get(attempt, brought.newest), brought.newest)
    return found


def _ago(now: datetime, then: datetime) -> str:
    hours = (now - then).total_seconds() / 3600
    return f"{hours / 24:.0f} days ago" if hours >= 72 else f"{hours:.0f} h ago"
