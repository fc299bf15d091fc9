"""`manifest.json`: what an artifact holds. Written last, so that an artifact with a manifest is whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Union

from pydantic import AfterValidator, BaseModel, ConfigDict

Metric = Union[float, int, str, bool, None]

_LONGEST_NAME_BYTES = 1024


def checked_name(name: str) -> str:
    """A file's name within an artifact: a relative POSIX path that stays inside.

    :raises ValueError: where it does not.
    """
    path = PurePosixPath(name)
    if (
        not name
        or "\0" in name
        or "\\" in name
        or path.is_absolute()
        or ".." in path.parts
        or str(path) != name
        or name == "."
        or len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME_BYTES
    ):
        raise ValueError(f"{name[:200]!r} is no name of a file within an artifact: it must be a plain relative path")
    return name


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(checked_name)]
    size_bytes: int
    sha256: str


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
    content_root: Annotated[str, AfterValidator(checked_name)]
    files: tuple[FileEntry, ...]
    inputs: Mapping[str, str] = {}
    properties: Mapping[str, str] = {}
    versions: Mapping[str, str] = {}
    metrics: Mapping[str, Metric] = {}
    created_at: datetime

    def file(self, name: str) -> FileEntry | None:
        """The entry of a file, or None where the artifact has none of that name."""
        return next((entry for entry in self.files if entry.name == name), None)
