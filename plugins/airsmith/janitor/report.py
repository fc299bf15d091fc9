"""Report of the garbage that the janitor deletes or would delete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airsmith.janitor.garbage import Garbage, Kind

MAX_SHOWN = 20
TITLES: dict[Kind, str] = {
    "pods": "Orphaned pods and jobs",
    "unfinished": "Half-published folders",
    "uploads": "Abandoned uploads",
    "endpoints": "Unused Deployments of endpoints",
    "checkpoints": "Old checkpoints",
    "caches": "Unused artifacts",
}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Section:
    """One kind of garbage.

    :param found: the garbage that was found.
    :param deleted: the part of it that was deleted.
    :param is_deleted: whether the janitor deletes this kind.
    """

    kind: Kind
    found: tuple[Garbage, ...]
    deleted: tuple[Garbage, ...] = ()
    is_deleted: bool = False

    def lines(self) -> Iterator[str]:
        """The section as lines of text."""
        garbage = self.deleted if self.is_deleted else self.found
        if not garbage:
            yield f"{TITLES[self.kind]}: none{' deleted' if self.found else ''}"
            return
        yield f"{TITLES[self.kind]}: {'deleted' if self.is_deleted else 'would delete'} {total(garbage)}"
        for item in garbage[:MAX_SHOWN]:
            size = f", {format_bytes(item.size_bytes)}" if item.paths or item.upload else ""
            yield f"  {item.name}: {item.reason}{size}"
        if len(garbage) > MAX_SHOWN:
            yield f"  and {len(garbage) - MAX_SHOWN} more"


def total(garbage: Sequence[Garbage]) -> str:
    """Number of items and objects, and their size."""
    objects = sum(len(item.paths) for item in garbage)
    in_objects = f" ({objects} objects)" if objects else ""
    size_bytes = sum(item.size_bytes for item in garbage)
    return f"{len(garbage)}{in_objects}" + (f", {format_bytes(size_bytes)}" if size_bytes else "")


def format_bytes(size_bytes: int) -> str:
    """A size with a binary unit."""
    size = float(size_bytes)
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
