"""Versions of a model: numbered by a conditional put, unchanged from then on."""

from __future__ import annotations

from datetime import datetime, timezone

from airsmith.artifacts.layout import model_version_folder
from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.registry.names import checked_name
from airsmith.registry.records import ModelVersion, ModelVersionDraft

VERSION_FILE = "version.json"
CARD_FILE = "README.md"


def register_version(store: Store, name: str, draft: ModelVersionDraft) -> ModelVersion:
    """Give a draft the next number; what is registered already keeps the number it has."""
    checked_name(name)
    while True:
        known = list_versions(store, name)
        for version in known:
            if version.digest == draft.digest:
                return version
        version = ModelVersion(
            **draft.model_dump(),
            name=name,
            version=known[-1].version + 1 if known else 1,
            created_at=datetime.now(timezone.utc),
        )
        path = f"{model_version_folder(name, version.version)}/{VERSION_FILE}"
        if store.create(path, version.model_dump_json(indent=2).encode()):
            return version


def list_versions(store: Store, name: str) -> list[ModelVersion]:
    """All versions of a model, the oldest first."""
    paths = [info.path for info in store.list(f"models/{checked_name(name)}") if info.path.endswith(f"/{VERSION_FILE}")]
    return sorted((_read(store, path) for path in paths), key=lambda version: version.version)


def find_version_by_digest(store: Store, name: str, digest: str) -> ModelVersion | None:
    """The version that a digest made, or None."""
    return next((version for version in list_versions(store, name) if version.digest == digest), None)


def get_version(store: Store, name: str, number: int) -> ModelVersion:
    """One version.

    :raises AirsmithError: `not_found`, naming the versions that exist.
    """
    known = {version.version: version for version in list_versions(store, name)}
    if number not in known:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Model {name} has no version {number} in {store.uri}.",
            f"It has {', '.join(map(str, known)) or 'none yet'}.",
        )
    return known[number]


def _read(store: Store, path: str) -> ModelVersion:
    return ModelVersion.model_validate_json(store.read(path))
