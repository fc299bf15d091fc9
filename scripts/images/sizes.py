"""Report an image's size and its largest layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scripts.images.builders import Layer

_SHOWN = 3
_WIDTH = 90


def report(image: str, layers: Sequence[Layer]) -> str:
    """An image's size and its largest layers, in MB of uncompressed data."""
    total = sum(layer.size_bytes for layer in layers)
    largest = sorted(layers, key=lambda layer: -layer.size_bytes)[:_SHOWN]
    lines = [f"{image}: {_megabytes(total)} in {len(layers)} layers; the largest:"]
    lines += [f"  {_megabytes(layer.size_bytes):>8}  {_instruction(layer.made_by)}" for layer in largest]
    return "\n".join(lines)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"


def _instruction(made_by: str) -> str:
    """A step's instruction without shell and build arguments; base images often have none."""
    text = re.sub(
        r"^(\|\d+ .*?)?/bin/sh( -c)? ?(#\(nop\) )?|^RUN |--mount=\S+ | # buildkit$", "", " ".join(made_by.split())
    )
    text = text or "the base image"
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
