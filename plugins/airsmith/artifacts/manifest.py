"""`manifest.json`: what an artifact holds. Written last, so that an artifact with a manifest is whole."""

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


def refuse_clashes(names: Iterable[str]) -> None:
    """Refuse names that no folder could hold together: the same twice, or one that lies in another.

    :raises ValueError: naming the clash.
    """
    taken: set[str] = set()
    folders: set[str] = set()
    for name in names:
        above = {name[:end] for end, character in enumerate(name) if character == "/"}
        if name in taken:
            raise ValueError(f"{name!r} is there twice")
        if name in folders or above & taken:
            raise ValueError(f"{name!r} is both a file and a folder")
        taken.add(name)
        folders |= above


def _without_clashes(files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    refuse_clashes(entry.name for entry in files)
    return files


class Manifest(BaseModel):
    """An artifact's table of contents and origin.

    :ivar content_root: folder under the artifact's that holds the files.
    :ivar inputs: digests of the inputs by upstream stage.
    :ivar properties: declared properties that downstream digests may count instead of the whole.
    :ivar versions: versions of the software that made it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    digest: str
    content_root: Annotated[str, AfterValidator(checked_path)]
    files: Annotated[tuple[FileEntry, ...], AfterValidator(_without_clashes)]
    inputs: Mapping[str, str] = {}
    properties: Mapping[str, str] = {}
    versions: Mapping[str, str] = {}
    metrics: Mapping[str, Metric] = {}
    created_at: datetime

    def file(self, name: str) -> FileEntry | None:
        """The entry of a file, or None where the artifact has none of that name."""
        return next((entry for entry in self.files if entry.name == name), None)
