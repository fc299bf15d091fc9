"""Decides which objects of the store are garbage, from the store's contents and the references. Deletes nothing."""

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
    """An item that is no longer needed.

    :param name: name of a pod or a Deployment, or path of a folder or object in the store.
    :param reason: why it is not needed.
    :param folder: folder of the artifact or checkpoint to which it belongs.
    :param paths: objects to delete.
    :param upload: upload to abort.
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
        """Path of the manifest that makes the folder valid."""
        return f"{self.folder}/{MANIFEST}"


@dataclass(frozen=True)
class Ages:
    """Retention times of unused objects.

    :param grace: after the last write to an unfinished folder or upload.
    :param checkpoints: of a training that has no output.
    :param finished_checkpoints: of a training that has its output.
    :param caches: of artifacts that only finished runs have used, after the last of these runs.
    """

    grace: timedelta
    checkpoints: timedelta
    finished_checkpoints: timedelta
    caches: timedelta


def unfinished_folders(
    store: Store,
    inventory: Inventory,
    uploads: Mapping[Upload, UploadedParts],
    active: References,
    registry: References,
    grace: timedelta,
) -> Iterator[Garbage]:
    """Unpublished content of artifacts and checkpoints without a recent write.

    :param uploads: active uploads, whose parts count as writes.
    :param active: references of active runs, which may be writing the folder.
    :param registry: references of versions and endpoints; a lost manifest among them may be restored.
    """
    uploaded = _newest_uploads(uploads)
    for folder in (*inventory.artifacts, *inventory.checkpoints):
        if active.contain(folder.path) or (registry.contain(folder.path) and not folder.is_published):
            continue
        for attempt in _unpublished_attempts(store, folder):
            newest = max(attempt.newest, uploaded.get(attempt.path, attempt.newest))
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
    """Incomplete uploads without a recent part."""
    for upload, parts in uploads.items():
        folder = "/".join(upload.path.split("/")[:3])
        if parts.last_part_at < now - grace and not needed.contain(folder):
            reason = f"never completed, last part {_ago(now, parts.last_part_at)}"
            yield Garbage("uploads", upload.path, reason, parts.size_bytes, upload=upload)


def list_uploads(uploads: Uploads, now: datetime, grace: timedelta) -> dict[Upload, UploadedParts]:
    """All uploads of artifacts and checkpoints. The parts of recent uploads are not listed, which saves requests."""
    found = {}
    for upload in uploads.list():
        if upload.path.startswith(("artifacts/", "checkpoints/")):
            is_recent = upload.started_at >= now - grace
            found[upload] = UploadedParts(0, upload.started_at) if is_recent else uploads.parts(upload)
    return found


def old_checkpoints(inventory: Inventory, needed: References, finished: References, ages: Ages) -> Iterator[Garbage]:
    """Checkpoints from which no active run resumes.

    :param finished: checkpoints of trainings that have their output.
    """
    by_key: dict[str, list[Folder]] = defaultdict(list)
    for folder in inventory.checkpoints:
        by_key[folder.path.rpartition("/")[0]].append(folder)
    for key, folders in by_key.items():
        newest = max(folder.newest for folder in folders)
        is_finished = key in finished.checkpoints
        if newest >= inventory.now - (ages.finished_checkpoints if is_finished else ages.checkpoints):
            continue
        state = "training finished" if is_finished else "no active run"
        for folder in folders:
            if folder.is_published and not needed.contain(folder.path):
                yield _published("checkpoints", folder, f"{state}, newest written {_ago(inventory.now, newest)}")


def unused_artifacts(inventory: Inventory, needed: References, ages: Ages) -> Iterator[Garbage]:
    """Published artifacts without a reference.

    :param needed: references of versions, endpoints, active runs and recent runs.
    """
    for folder in inventory.artifacts:
        if folder.is_published and not needed.contain(folder.path) and folder.newest < inventory.now - ages.caches:
            yield _published("caches", folder, f"not referenced, written {_ago(inventory.now, folder.newest)}")


def published_content(store: Store, folder: str) -> str | None:
    """Folder of an artifact's content; the artifact's folder if the manifest is damaged, None if it does not exist."""
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


def _unpublished_attempts(store: Store, folder: Folder) -> list[Folder]:
    """The attempts that the artifact's manifest does not name."""
    attempts = folder.attempts()
    if not folder.is_published:
        return attempts
    if len(attempts) < 2:
        return []
    content = published_content(store, folder.path)
    return [] if content in (None, folder.path) else [attempt for attempt in attempts if attempt.path != content]


def _newest_uploads(uploads: Mapping[Upload, UploadedParts]) -> dict[str, datetime]:
    """Time of the newest uploaded part of each attempt."""
    found: dict[str, datetime] = {}
    for upload, parts in uploads.items():
        attempt = "/".join(upload.path.split("/")[:4])
        found[attempt] = max(found.get(attempt, parts.last_part_at), parts.last_part_at)
    return found


def _ago(now: datetime, then: datetime) -> str:
    hours = (now - then).total_seconds() / 3600
    return f"{hours / 24:.0f} days ago" if hours >= 72 else f"{hours:.0f} h ago"
