"""Versions of a model: numbered by a conditional put, unchanged from then on."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from airsmith.artifacts.layout import model_version_folder
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry.names import checked_name
from airsmith.registry.records import ModelVersion, ModelVersionDraft
from airsmith.registry.swapping import MOST_TRIES, give_way, never_won, read_record

VERSION_FILE = "version.json"
CARD_FILE = "README.md"

_VERSION_PATH = re.compile(rf"models/[^/]+/([1-9][0-9]*)/{re.escape(VERSION_FILE)}")


def register_version(store: Store, name: str, draft: ModelVersionDraft) -> ModelVersion:
    """Give a draft the next number; what is registered already keeps the number it has.

    :raises AirsmithError: `store_unavailable` where somebody else takes each number first, again and again.
    """
    checked_name(name)
    for _ in range(MOST_TRIES):
        known = list_versions(store, name)
        for version in known:
            if version.digest == draft.digest:
                return version
        number = known[-1].version + 1 if known else 1
        version = ModelVersion(**draft.model_dump(), name=name, version=number, created_at=datetime.now(timezone.utc))
        if store.create(_version_path(name, number), version.model_dump_json(indent=2).encode()):
            return version
        give_way()
    raise never_won(store, f"models/{name}")


def list_versions(store: Store, name: str) -> list[ModelVersion]:
    """All versions of a model, the oldest first."""
    found = (_find(store, name, number) for number in _numbers(store, name))
    return [version for version in found if version is not None]


def find_version_by_digest(store: Store, name: str, digest: str) -> ModelVersion | None:
    """The version that a digest made, or None."""
    return next((version for version in list_versions(store, name) if version.digest == digest), None)


def get_version(store: Store, name: str, number: int) -> ModelVersion:
    """One version.

    :raises AirsmithError: `not_found`, naming the versions that exist.
    """
    version = _find(store, checked_name(name), number)
    if version is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Model {name} has no version {number} in {store.uri}.",
            f"It has {', '.join(map(str, _numbers(store, name))) or 'none yet'}.",
        )
    return version


def _numbers(store: Store, name: str) -> list[int]:
    paths = (_VERSION_PATH.fullmatch(info.path) for info in store.list(f"models/{checked_name(name)}"))
    return sorted(int(found[1]) for found in paths if found is not None)


def _find(store: Store, name: str, number: int) -> ModelVersion | None:
    found = read_record(store, _version_path(name, number), ModelVersion)
    return found[0] if found is not None else None


def _version_path(name: str, number: int) -> str:
    return f"{model_version_folder(name, number)}/{VERSION_FILE}"
