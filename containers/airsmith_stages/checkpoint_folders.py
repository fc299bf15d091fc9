"""What a try leaves in the store for the next, by number: a training's checkpoints, or compile caches not whole yet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from airsmith.artifacts.layout import MANIFEST, checkpoint_folder, checkpoints_folder
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

DAMAGE = (ErrorKind.VERIFICATION_FAILED, ErrorKind.NOT_FOUND)
"""Kinds of error that say that a checkpoint cannot be used: another may."""

_Restored = TypeVar("_Restored")


@dataclass(frozen=True)
class CheckpointFolders:
    """The checkpoints of one key."""

    store: Store
    key: str

    def path(self, number: int) -> str:
        """Folder of a checkpoint, which need not exist."""
        return checkpoint_folder(self.key, number)

    def published(self) -> list[int]:
        """Numbers of the checkpoints that have a manifest, in numeric order."""
        return sorted(number for number, paths in self._paths().items() if self._manifest(number) in paths)

    def begun(self) -> list[int]:
        """Numbers of which there is anything, published or not, in numeric order."""
        return sorted(self._paths())

    def open(self, number: int) -> Artifact | None:
        """A checkpoint, its sizes verified, or None where none was published.

        :raises AirsmithError: `verification_failed`.
        """
        return open_artifact(self.store, self.path(number))

    def restore_newest(
        self,
        restore: Callable[[int, Artifact], _Restored],
        discard: Callable[[int], None],
        at_most: int | None = None,
    ) -> _Restored | None:
        """Restore the newest checkpoint that is undamaged; a damaged one is passed over with a warning.

        :param restore: copies a checkpoint, verified.
        :param discard: removes what a copy that failed has left.
        :param at_most: the last number that counts.
        :returns: what `restore` does, or None where there is nothing to go on from.
        """
        for number in reversed([number for number in self.published() if at_most is None or number <= at_most]):
            try:
                checkpoint = self.open(number)
                if checkpoint is not None:
                    return restore(number, checkpoint)
            except AirsmithError as error:
                if error.kind not in DAMAGE:
                    raise
                discard(number)
                log.warning("Passing over checkpoint %d: %s", number, error.message)
        return None

    def remove(self, number: int) -> None:
        """Remove a checkpoint, its manifest first: without it nobody takes the rest for a whole one."""
        manifest = self._manifest(number)
        self.store.delete(manifest)
        for path in self._paths().get(number, ()):
            if path != manifest:
                self.store.delete(path)

    def _manifest(self, number: int) -> str:
        return f"{self.path(number)}/{MANIFEST}"

    def _paths(self) -> dict[int, list[str]]:
        """Objects by number."""
        prefix = f"{checkpoints_folder(self.key)}/"
        found: dict[int, list[str]] = {}
        for info in self.store.list(prefix.rstrip("/")):
            number = info.path.removeprefix(prefix).split("/", 1)[0]
            if number.isdigit():
                found.setdefault(int(number), []).append(info.path)
        return found
