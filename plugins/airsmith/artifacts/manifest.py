"""`manifest.json`: the contents of an artifact. Written last, so an artifact with a manifest is complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt

from airsmith.artifacts.layout import checked_path

Metric = Union[float, int, str, bool, None]


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(checked_path)]
    size_bytes: NonNegativeInt
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def check_name_conflicts(names: Iterable[str]) -> None:
    """Check that a folder can hold all names: no duplicates, and no name that is both a file and a folder.

    :raises ValueError: if names conflict; the message names one.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        parents = {name[:end] for end, character in enumerate(name) if character == "/"}
        if name in seen:
            raise ValueError(f"{name!r} is listed twice")
        if name in folders or parents & seen:
            raise ValueError(f"{name!r} is both a file and a folder")
        seen.add(name)
        folders |= parents


def _without_conflicts(files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    check_name_conflicts(entry.name for entry in files)
    return files


class Manifest(BaseModel):
    """The contents and origin of an artifact.

    :ivar content_root: subfolder of the artifact that holds the files.
    :ivar inputs: digests of the inputs by upstream stage.
    :ivar properties: declared properties, which a downstream digest may use instead of the artifact's digest.
    :ivar versions: versions of the software that produced the artifact.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    digest: str
    content_root: Annotated[str, AfterValidator(checked_path)]
    files: Annotated[tuple[FileEntry, ...], AfterValidator(_without_conflicts)]
    inputs: Mapping[str, str] = {}
    properties: Mapping[str, str] = {}
    versions: Mapping[str, str] = {}
    metrics: Mapping[str, Metric] = {}
    created_at: datetime

    def file(self, name: str) -> FileEntry | None:
        """The entry of a file; None if the artifact has no such file."""
        return next((entry for entry in self.files if entry.name == name), None)
