"""What the janitor found and removed, or would remove, in words and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airsmith.janitor.garbage import Garbage, Kind

MOST_SHOWN = 20
TITLES: dict[Kind, str] = {
    "pods": "Orphaned pods and jobs",
    "unfinished": "Half-published folders",
    "uploads": "Abandoned uploads",
    "endpoints": "Unused servers of endpoints",
    "checkpoints": "Old checkpoints",
    "caches": "Unused artifacts",
}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Section:
    """One kind of garbage.

    :param found: what nobody needs.
    :param removed: what of it was removed.
    :param told: whether the janitor is told to remove this kind.
    """

    kind: Kind
    found: tuple[Garbage, ...]
    removed: tuple[Garbage, ...] = ()
    told: bool = False

    def lines(self) -> Iterator[str]:
        """The section as text."""
        garbage = self.removed if self.told else self.found
        if not garbage:
            yield f"{TITLES[self.kind]}: none{' removed' if self.found else ''}"
            return
        yield f"{TITLES[self.kind]}: {'removed' if self.told else 'would remove'} {amount(garbage)}"
        for one in garbage[:MOST_SHOWN]:
            size = f", {readable(one.size_bytes)}" if one.paths or one.upload else ""
            yield f"  {one.name}: {one.reason}{size}"
        if len(garbage) > MOST_SHOWN:
            yield f"  and {len(garbage) - MOST_SHOWN} more"


def amount(garbage: Sequence[Garbage]) -> str:
    """How many things, objects and bytes."""
    objects = sum(len(one.paths) for one in garbage)
    held = f" ({objects} objects)" if objects else ""
    size_bytes = sum(one.size_bytes for one in garbage)
    return f"{len(garbage)}{held}" + (f", {readable(size_bytes)}" if size_bytes else "")


def readable(size_bytes: int) -> str:
    """A size for people."""
    size = float(size_bytes)
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
