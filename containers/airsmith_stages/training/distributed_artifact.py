"""One artifact written by several processes: each rank adds its files, and the main process publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airsmith.artifacts.manifest import FileEntry
from airsmith.artifacts.publish import ArtifactWriter
from airsmith_stages.training.distributed import DistributedContext

Content = Mapping[str, bytes | Path]
"""Files that one process adds: names, and their content in memory or on the local disk."""


def add_from_all_ranks(
    writer: ArtifactWriter, content: Content, distributed: DistributedContext, group: Any = None
) -> None:
    """Add each rank's files to one artifact, which the main process may then publish. All ranks must call this.

    :param group: the process group to use.
    :raises AirsmithError: the error of the rank that failed; the main process's writer removes the files of all ranks.
    """
    writer.keep_partial = not distributed.is_main_process
    writer.content_root = distributed.on_main_process(lambda: writer.content_root, group)
    added = distributed.on_all_ranks(lambda: _add(writer, content), group)
    writer.files.update({entry.name: entry for entries in added for entry in entries})


def files_under(folder: Path) -> dict[str, Path]:
    """All files under a folder, by their relative name."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _add(writer: ArtifactWriter, content: Content) -> list[FileEntry]:
    return [
        writer.add_file(name, data) if isinstance(data, Path) else writer.add_bytes(name, data)
        for name, data in content.items()
    ]
