"""Numbered checkpoint folders of one key in the store: a training's checkpoints, or partly filled compile caches."""

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

UNUSABLE = (ErrorKind.VERIFICATION_FAILED, ErrorKind.NOT_FOUND)
"""Kinds of error that make one checkpoint unusable; an older one may still be usable."""

_Restored = TypeVar("_Restored")


@dataclass(frozen=True)
class CheckpointFolders:
    """The checkpoints of one key."""

    store: Store
    key: str

    def path(self, number: int) -> str:
        """Folder of a checkpoint, which may not exist yet."""
        return checkpoint_folder(self.key, number)

    def published(self) -> list[int]:
        """Numbers of the checkpoints that have a manifest, in ascending order."""
        return sorted(number for number, paths in self._paths().items() if self._manifest(number) in paths)

    def existing(self) -> list[int]:
        """Numbers of all folders with at least one object, published or not, in ascending order."""
        return sorted(self._paths())

    def open(self, number: int) -> Artifact | None:
        """A checkpoint whose sizes are verified; None if it is not published.

        :raises AirsmithError: `verification_failed`.
        """
        return open_artifact(self.store, self.path(number))

    def restore_newest(
        self,
        restore: Callable[[int, Artifact], _Restored],
        discard: Callable[[int], None],
        at_most: int | None = None,
    ) -> _Restored | None:
        """Restore the newest undamaged checkpoint, and skip damaged ones with a warning.

        :param restore: downloads and verifies a checkpoint.
        :param discard: removes the files of a failed download.
        :param at_most: the highest number to consider; no limit if None.
        :returns: the result of `restore`, or None if no checkpoint is usable.
        """
        for number in reversed([number for number in self.published() if at_most is None or number <= at_most]):
            try:
                checkpoint = self.open(number)
                if checkpoint is not None:
                    return restore(number, checkpoint)
            except AirsmithError as error:
                if error.kind not in UNUSABLE:
                    raise
                discard(number)
                log.warning("Skipping checkpoint %d: %s", number, error.message)
        return None

    def remove(self, number: int) -> None:
        """Remove a checkpoint. The manifest goes first: without it, the remaining files do not count as published."""
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
