"""One artifact of several processes: each adds what it holds, and the leader publishes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airsmith.artifacts.manifest import FileEntry
from airsmith.artifacts.publish import ArtifactWriter
from airsmith_stages.frame import StageContext
from airsmith_stages.training.processes import Processes

Content = Mapping[str, bytes | Path]
"""What one process adds: names of files, and what is in them, in memory or on the local disk."""


def add_together(writer: ArtifactWriter, content: Content, processes: Processes, group: Any = None) -> None:
    """Add each process's files to one artifact. All must come here at the same time; then the leader may publish.

    :param group: the processes' group to talk in.
    :raises AirsmithError: what adding failed with, in any of them; the leader's writer removes what all have written.
    """
    writer.kept = not processes.is_leader
    writer.content_root = processes.by_leader(lambda: writer.content_root, group)
    written = processes.together(lambda: _add(writer, content), group)
    writer.files.update({entry.name: entry for entries in written for entry in entries})


def files_under(folder: Path) -> dict[str, Path]:
    """Every file under a folder, by its name there."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _add(writer: ArtifactWriter, content: Content) -> list[FileEntry]:
    return [
        writer.add_file(name, data) if isinstance(data, Path) else writer.add_bytes(name, data)
        for name, data in content.items()
    ]


def fetch_together(context: StageContext, stage: str, processes: Processes) -> Path:
    """Copy an upstream stage's files to the local disk, verified, once for all processes of a node.

    :returns: the folder, which they share.
    """
    node, number = processes.node
    copies = processes.together(lambda: (node, number, context.fetch(stage) if number == 0 else None))
    return next(folder for of_node, _, folder in copies if of_node == node and folder is not None)
