"""Files of datasets: conversations, JSON Lines and folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Files = Mapping[str, bytes]
"""Contents by path."""


def write_files(folder: Path, files: Files) -> Path:
    """Replace all files of a folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files under a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def jsonl(rows: Iterable[Any]) -> bytes:
    """Encode rows as a JSON Lines file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def chat(*contents: str) -> list[dict[str, str]]:
    """Make a conversation of alternating user and assistant messages."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]


def chats(conversations: Iterable[Sequence[str]]) -> bytes:
    """Encode conversations as a JSON Lines file in chat format."""
    return jsonl({"messages": chat(*conversation)} for conversation in conversations)
