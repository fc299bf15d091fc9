"""Find the line that makes a dataset's text file unreadable, since the readers' own errors name no line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

JSON_LINES = (".jsonl", ".ndjson")
TEXT = (*JSON_LINES, ".json", ".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class BrokenFile:
    """An error in a dataset's files.

    :param place: the file and, if known, the line.
    """

    place: str
    reason: str
    hint: str


def find_broken(folder: Path) -> BrokenFile | None:
    """The first line under a folder that does not match its file's suffix, else the first empty file."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.suffix in TEXT}
    lines = (line for name, path in files.items() for line in _broken_lines(path, name))
    empty = (name for name, path in files.items() if path.stat().st_size == 0)
    return next(lines, None) or next((BrokenFile(name, "is empty", "Add examples.") for name in empty), None)


def _broken_lines(path: Path, name: str) -> Iterator[BrokenFile]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield BrokenFile(
                    f"{name} line {number}", f"is not valid UTF-8 (byte {error.start})", "Save the file as UTF-8."
                )
                continue
            reason = _json_object_error(text) if path.suffix in JSON_LINES and text.strip() else None
            if reason is not None:
                yield BrokenFile(f"{name} line {number}", reason, "Correct or remove that line.")


def _json_object_error(text: str) -> str | None:
    try:
        value = json.loads(text.strip())
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair (\\ud800 to \\udfff), which is not a valid character"
    except ValueError as error:
        return f"is not valid JSON: {str(error).replace('line 1 ', '')}"
    return None if isinstance(value, dict) else "is not a JSON object"
