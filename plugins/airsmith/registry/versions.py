"""Versions of a model: a conditional put assigns the number; a version is immutable."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from airsmith.artifacts.layout import model_version_folder
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry.compare_and_swap import MAX_ATTEMPTS, back_off, contention_error, read_record
from airsmith.registry.names import check_name
from airsmith.registry.records import ModelVersion, ModelVersionDraft

VERSION_FILE = "version.json"
CARD_FILE = "README.md"

_VERSION_PATH = re.compile(rf"models/[^/]+/([1-9][0-9]*)/{re.escape(VERSION_FILE)}")


def register_version(store: Store, name: str, draft: ModelVersionDraft) -> ModelVersion:
    """Register a draft under the next number; a digest that is already registered keeps its number.

    :raises AirsmithError: `store_unavailable` if another writer takes the number in every attempt.
    """
    check_name(name)
    for _ in range(MAX_ATTEMPTS):
        known = list_versions(store, name)
        for version in known:
            if version.digest == draft.digest:
                return version
        number = known[-1].version + 1 if known else 1
        version = ModelVersion(**draft.model_dump(), name=name, version=number, created_at=datetime.now(timezone.utc))
        if store.create(_version_path(name, number), version.model_dump_json(indent=2).encode()):
            return version
        back_off()
    raise contention_error(store, f"models/{name}")


def list_versions(store: Store, name: str) -> list[ModelVersion]:
    """All versions of a model, oldest first."""
    found = (_find(store, name, number) for number in _numbers(store, name))
    return [version for version in found if version is not None]


def find_version_by_digest(store: Store, name: str, digest: str) -> ModelVersion | None:
    """The version with this digest, or None."""
    return next((version for version in list_versions(store, name) if version.digest == digest), None)


def get_version(store: Store, name: str, number: int) -> ModelVersion:
    """One version.

    :raises AirsmithError: `not_found`, naming the versions that exist.
    """
    version = _find(store, check_name(name), number)
    if version is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Model {name} has no version {number} in {store.uri}.",
            f"Existing versions: {', '.join(map(str, _numbers(store, name))) or 'none'}.",
        )
    return version


def _numbers(store: Store, name: str) -> list[int]:
    paths = (_VERSION_PATH.fullmatch(info.path) for info in store.list(f"models/{check_name(name)}"))
    return sorted(int(found[1]) for found in paths if found is not None)


def _find(store: Store, name: str, number: int) -> ModelVersion | None:
    found = read_record(store, _version_path(name, number), ModelVersion)
    return found[0] if found is not None else None


def _version_path(name: str, number: int) -> str:
    return f"{model_version_folder(name, number)}/{VERSION_FILE}"
