"""Write `kubernetes.images` into a hand-written settings file and keep everything else, comments included."""

from __future__ import annotations

import os
import shutil
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.settings import Image


def write_images(settings: Path, images: Mapping[str, Image]) -> None:
    """Write images to the file's `kubernetes.images`; create the file if it does not exist.

    :raises AirsmithError: `bad_recipe` if the file is not a YAML mapping or other parts depend on that section.
    """
    settings = settings.resolve()
    before = settings.read_bytes().decode("utf-8") if settings.exists() else ""
    after = before
    for name, image in images.items():
        try:
            after = with_image(after, name, image.model_dump(mode="json"))
        except (ValueError, yaml.YAMLError) as error:
            raise AirsmithError(
                ErrorKind.BAD_RECIPE,
                f"{settings} cannot take kubernetes.images.{name}: {error}",
                "Write kubernetes and images as plain YAML mappings, without anchors, and run `make images` again.",
            ) from error
    if after != before:
        _replace(settings, after)


def with_image(text: str, name: str, image: Mapping[str, Any]) -> str:
    """A settings file's text with one image added.

    :raises ValueError: if the image cannot be added without changing other parts.
    :raises yaml.YAMLError: if the text is not valid YAML.
    """
    path = ["kubernetes", "images", name]
    content = yaml.safe_load(text)
    if not isinstance(content or {}, dict):
        raise ValueError("the file is no mapping.")
    wanted = _merged(content, path, image)
    if wanted == content:
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    changed = _edited(text, path, image, newline)
    if yaml.safe_load(changed) != wanted:
        raise ValueError("another part of the file depends on it.")
    return changed


def _edited(text: str, path: Sequence[str], value: Any, newline: str) -> str:
    """The text with a value at a path: the groups above it are kept, it itself is written anew."""
    node = yaml.compose(text, yaml.SafeLoader)
    if node is None:
        return _inserted(text, len(text), _nested(path, value), 0, newline)
    colon, column = None, 0
    for depth, key in enumerate(path):
        if not _is_block(node):
            if colon is None:
                raise ValueError("the file is one {…}.")
            is_mapping = isinstance(node, yaml.MappingNode)
            held = yaml.safe_load(text[node.start_mark.index : node.end_mark.index]) if is_mapping else None
            return _rewritten(text, node, colon, _merged(held, path[depth:], value), column + 2, newline)
        column = node.value[0][0].start_mark.column
        found = next((pair for pair in node.value if pair[0].value == key), None)
        if found is None:
            place = _next_line(text, _last_character(node))
            return _inserted(text, place, _nested(path[depth:], value), column, newline)
        if found[1].start_mark.index < found[0].end_mark.index:
            raise ValueError(f"{key} is an alias of another part.")
        node, colon = found[1], text.index(":", found[0].end_mark.index) + 1
    inner = node.value[0][0].start_mark.column if _is_block(node) else column + 2
    return _rewritten(text, node, colon, value, inner, newline)


def _rewritten(text: str, node: yaml.Node, colon: int | None, value: Any, column: int, newline: str) -> str:
    """The text with another value under a key; what stands beside the old one on its lines stays."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        first = node.value[0][0] if isinstance(node, yaml.MappingNode) else node
        start = first.start_mark.index - first.start_mark.column
        end = _next_line(text, _last_character(node))
        return _inserted(text[:start] + text[end:], start, value, column, newline)
    start, end = node.start_mark.index, node.end_mark.index
    before = text[:start].rstrip(" ")
    text = before + text[end:]
    return _inserted(text, _next_line(text, len(before)), value, column, newline)


def _inserted(text: str, place: int, value: Any, column: int, newline: str) -> str:
    """The text with a block of YAML at the beginning of a line."""
    block = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    block = textwrap.indent(block, " " * column).replace("\n", newline)
    broken = newline if text[:place] and not text[:place].endswith("\n") else ""
    return text[:place] + broken + block + text[place:]


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and not node.flow_style


def _last_character(node: yaml.Node) -> int:
    """Where a node's own text ends: the end that PyYAML tells of a block lies behind the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        key, value = node.value[-1]
        return max(_last_character(key), _last_character(value))
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return _last_character(node.value[-1])
    end: int = node.end_mark.index
    return end


def _next_line(text: str, index: int) -> int:
    """Where the next line begins: here already, where a block scalar has ended."""
    if text[index - 1 : index] == "\n":
        return index
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def _merged(content: Any, path: Sequence[str], value: Any) -> Any:
    """A mapping with a value at a path, in place of what is there and no mapping."""
    if not path:
        return value
    held = content if isinstance(content, dict) else {}
    return {**held, path[0]: _merged(held.get(path[0]), path[1:], value)}


def _nested(path: Sequence[str], value: Any) -> Any:
    return _merged({}, path, value)


def _replace(file: Path, text: str) -> None:
    """Replace a file atomically and keep its mode."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(text.encode("utf-8"))
        if file.exists():
            shutil.copymode(file, name)
        else:
            Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
