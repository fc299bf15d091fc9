"""Draw docs/images/architecture.txt as an SVG for light pages and one for dark pages: `make diagrams`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SOURCE = IMAGES / "architecture.txt"

WIDTH, MARGIN, GAP = 960, 14, 12
TITLE_HEIGHT, BOX_HEIGHT, BAND_GAP = 30, 48, 26
GROUP_TITLE, GROUP_BOX = 24, 30
SANS = "system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif"
MONOSPACED = "ui-monospace,Menlo,Consolas,monospace"


@dataclass(frozen=True)
class Palette:
    """Colors of one theme."""

    text: str
    note: str
    line: str
    band: str
    box: str
    arrow: str


PALETTES = {
    "light": Palette("#1f2430", "#5b6475", "#c8cfdb", "#f4f6fb", "#ffffff", "#3c5a99"),
    "dark": Palette("#e6e9f0", "#a3adc0", "#454f63", "#222733", "#2d3443", "#8fb0ef"),
}


@dataclass(frozen=True)
class Box:
    """A name, with a note below it."""

    name: str
    note: str
    optional: bool


@dataclass(frozen=True)
class Group:
    """Boxes below a common title; without a title, one box."""

    title: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Band:
    """One line of the source."""

    title: str
    groups: tuple[Group, ...]

    @property
    def height(self) -> int:
        """In pixels."""
        inner = GROUP_TITLE + GROUP_BOX if any(group.title for group in self.groups) else BOX_HEIGHT
        return TITLE_HEIGHT + inner + MARGIN


def read_box(text: str) -> Box:
    """A box of `name*`, `name (note)`."""
    name, _, note = text.strip().partition(" (")
    return Box(name.rstrip("*"), note.rstrip(")"), name.endswith("*"))


def read_bands(text: str) -> Iterator[Band]:
    """The bands of a source text."""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        title, _, rest = line.partition(": ")
        groups = []
        for part in rest.split(" | "):
            name, equals, boxes = part.partition(" = ")
            texts = boxes.split(", ") if equals else [part]
            groups.append(Group(name if equals else "", tuple(map(read_box, texts))))
        yield Band(title, tuple(groups))


def text(x: float, y: float, words: str, size: int, color: str, *, bold: bool = False, anchor: str = "start") -> str:
    """One line of text; words between backquotes are set in a monospaced font."""
    spans = [
        f'<tspan font-family="{MONOSPACED}">{escape(part)}</tspan>' if index % 2 else escape(part)
        for index, part in enumerate(words.split("`"))
    ]
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{color}"{weight}>{"".join(spans)}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, line: str, *, dashed: bool = False) -> str:
    """A rectangle with round corners."""
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}" stroke="{line}"{dash}/>'
    )


def draw_box(box: Box, x: float, y: float, width: float, height: float, palette: Palette) -> Iterator[str]:
    """A box with its name, and its note if it has one."""
    yield rectangle(x, y, width, height, palette.box, palette.line, dashed=box.optional)
    center = x + width / 2
    if box.note:
        yield text(center, y + 20, box.name, 13, palette.text, bold=True, anchor="middle")
        yield text(center, y + 37, box.note, 12, palette.note, anchor="middle")
    else:
        yield text(center, y + height / 2 + 4.5, box.name, 13, palette.text, anchor="middle")


def draw_group(group: Group, x: float, y: float, width: float, palette: Palette) -> Iterator[str]:
    """The boxes of a group side by side, each as wide as its name needs."""
    yield text(x + 2, y + 14, group.title, 12, palette.note, bold=True)
    lengths = [len(box.name) + 2 for box in group.boxes]
    free = width - 6 * (len(lengths) - 1)
    for box, length in zip(group.boxes, lengths, strict=True):
        share = free * length / sum(lengths)
        yield from draw_box(box, x, y + GROUP_TITLE, share, GROUP_BOX, palette)
        x += share + 6


def draw_band(band: Band, y: float, palette: Palette) -> Iterator[str]:
    """A band over the whole width."""
    yield rectangle(1, y, WIDTH - 2, band.height, palette.band, palette.line)
    yield text(MARGIN, y + 20, band.title, 14, palette.text, bold=True)
    weights = [sum(len(box.name) + 2 for box in group.boxes) if group.title else 1 for group in band.groups]
    free = WIDTH - 2 * MARGIN - GAP * (len(weights) - 1)
    x = float(MARGIN)
    for group, weight in zip(band.groups, weights, strict=True):
        width = free * weight / sum(weights)
        if group.title:
            yield from draw_group(group, x, y + TITLE_HEIGHT, width, palette)
        else:
            yield from draw_box(group.boxes[0], x, y + TITLE_HEIGHT, width, BOX_HEIGHT, palette)
        x += width + GAP


def draw(bands: list[Band], palette: Palette) -> str:
    """The SVG."""
    parts: list[str] = []
    y = 1.0
    for index, band in enumerate(bands):
        if index:
            x = WIDTH / 2
            parts.append(f'<path d="M{x:g} {y + 4:g}v14" stroke="{palette.arrow}" stroke-width="2"/>')
            parts.append(f'<path d="M{x - 5:g} {y + 16:g}h10l-5 7z" fill="{palette.arrow}"/>')
            y += BAND_GAP
        parts += draw_band(band, y, palette)
        y += band.height
    parts.append(text(WIDTH - 2, y + 18, "dashed: only if needed", 12, palette.note, anchor="end"))
    label = escape(". ".join(band.title for band in bands).replace("`", ""))
    box = f'viewBox="0 0 {WIDTH} {y + 26:g}" role="img" aria-label="{label}"'
    lines = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="{SANS}">\n{lines}\n</svg>\n'


def main() -> None:
    """Write one file for each palette."""
    bands = list(read_bands(SOURCE.read_text(encoding="utf-8")))
    for theme, palette in PALETTES.items():
        file = IMAGES / f"architecture-{theme}.svg"
        file.write_text(draw(bands, palette), encoding="utf-8")
        print(f"wrote {file.relative_to(IMAGES.parents[1])}")


if __name__ == "__main__":
    main()
