"""Read a dataset's splits and convert each row to a conversation or a prompt with its completion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.sources import COLUMN_PARTS, DatasetSource
from airsmith_stages.data.broken_files import find_broken
from airsmith_stages.failures import as_airsmith_error

Message = dict[str, Any]

BATCH_ROWS = 256
"""Rows per batch."""


@dataclass(frozen=True)
class Example:
    """One example: a conversation that ends with an answer, or a plain prompt with its completion.

    :param number: its row in the split, for messages.
    :param split: name of the split, for messages.
    """

    number: int
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""
    split: str = ""

    @property
    def place(self) -> str:
        """Its position in the dataset, for messages."""
        return f"row {self.number} of {self.split!r}" if self.split else f"row {self.number}"

    @property
    def is_conversation(self) -> bool:
        """Whether a chat template renders it."""
        return bool(self.messages)

    def text(self) -> str:
        """Its whole text, to compare it with other examples."""
        return "\n".join(str(message["content"]) for message in self.messages) or f"{self.prompt}\n{self.completion}"


@dataclass(frozen=True)
class Examples:
    """A part of a dataset, on disk; only requested rows are in memory.

    :param rows: a split in a memory-mapped file.
    :param columns: column name by part of an example.
    :param split: name of the split, for messages.
    :param selected: mask of the rows in this part; None for all.
    """

    rows: datasets.Dataset
    columns: Mapping[str, str]
    source: DatasetSource
    split: str
    folder: Path
    selected: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.selected is None else int(self.selected.sum())

    def batches(self) -> Iterator[range]:
        """Its row numbers in ranges of BATCH_ROWS, which may include rows of other parts."""
        for start in range(0, len(self.rows), BATCH_ROWS):
            yield range(start, min(start + BATCH_ROWS, len(self.rows)))

    def read(self, numbers: range) -> list[Example]:
        """Read the examples of a range of row numbers.

        :raises AirsmithError: `bad_data`, naming the row, or file and line if it cannot be read.
        """
        with _reading(self.folder, self.source, self.split):
            read = self.rows[numbers.start : numbers.stop]
            values = {part: read[column] for part, column in self.columns.items()}
            return [
                _example(number, {part: column[index] for part, column in values.items()}, self)
                for index, number in enumerate(numbers)
                if self.selected is None or self.selected[number]
            ]

    def __iter__(self) -> Iterator[Example]:
        for numbers in self.batches():
            yield from self.read(numbers)


@dataclass(frozen=True)
class Splits:
    """The examples to train and to validate on."""

    train: Examples
    validation: Examples


def read_splits(folder: Path, source: DatasetSource, cache: Path) -> Splits:
    """Load both splits of a dataset; a hold-out by fraction depends only on the recipe's seed.

    :param cache: folder for the memory-mapped rows.
    :raises AirsmithError: `bad_data`, naming the file, split or column.
    """
    datasets.disable_progress_bars()
    examples = _load(folder, source, source.split, cache)
    if source.validation_split is not None:
        return Splits(examples, _load(folder, source, source.validation_split, cache))
    held_out = _held_out(len(examples), source)
    return Splits(replace(examples, selected=~held_out), replace(examples, selected=held_out))


def _load(folder: Path, source: DatasetSource, split: str, cache: Path) -> Examples:
    with _reading(folder, source, split):
        rows = datasets.load_dataset(str(folder), name=source.subset, split=split, cache_dir=str(cache))
        if len(rows) == 0:
            raise _bad(source, f"split {split!r} is empty", "Choose another split or add examples.")
        columns = _checked_columns(rows.column_names, source)
        return Examples(rows.select_columns(sorted(set(columns.values()))), columns, source, split, folder)


@contextmanager
def _reading(folder: Path, source: DatasetSource, split: str) -> Iterator[None]:
    """Add the failing line to the reader's error, which names none and may be raised at a later row."""
    try:
        yield
    except AirsmithError:
        raise
    except Exception as error:
        known = as_airsmith_error(error)
        if known.kind is not ErrorKind.INTERNAL:
            raise known from error
        broken = find_broken(folder)
        if broken is not None:
            raise _bad(source, f"{broken.place} {broken.reason}", broken.hint) from error
        raise _bad(
            source,
            f"split {split!r} cannot be read: {_reason(error)}",
            "Check dataset.split, dataset.subset and the files; all splits must have the same columns and types.",
        ) from error


def _reason(error: Exception) -> str:
    """The reader's message in one line, or its cause if the message is uninformative."""
    message = str(error) if "\n" in str(error) else str(error.__cause__ or error)
    return " ".join(message.split())[:500].rstrip(".") or type(error).__name__


def _held_out(rows: int, source: DatasetSource) -> NDArray[np.bool_]:
    """Mask of the held-out rows: a seeded random draw; both parts keep the order of the rows."""
    assert source.validation_fraction is not None
    count = math.ceil(source.validation_fraction * rows)
    if count == rows:
        raise _bad(
            source,
            f"dataset.validation_fraction {source.validation_fraction} holds out all {count} rows of {source.split!r}",
            "Add examples or lower it.",
        )
    held_out = np.zeros(rows, dtype=np.bool_)
    held_out[np.random.default_rng(source.seed).permutation(rows)[:count]] = True
    return held_out


def _checked_columns(existing: list[str], source: DatasetSource) -> dict[str, str]:
    """The column of each part of an example.

    :returns: column by part, without an optional part that has no column.
    """
    columns = {part: source.columns.get(part, part) for part in COLUMN_PARTS[source.format]}
    if "input" not in source.columns and columns.get("input") not in existing:
        columns.pop("input", None)
    missing = [column for column in columns.values() if column not in existing]
    if missing:
        raise _bad(
            source,
            f"column {missing[0]!r}, which dataset.format {source.format!r} requires, does not exist",
            f"Map the columns with dataset.columns; the dataset has {', '.join(existing)}.",
        )
    return columns


def _example(number: int, values: dict[str, Any], part_of: Examples) -> Example:
    source, split = part_of.source, part_of.split
    if source.format == "messages":
        return Example(number, messages=_checked_messages(values["messages"], number, source, split), split=split)
    for part, value in values.items():
        if part != "input" and not (isinstance(value, str) and value):
            raise _bad(
                source,
                f"row {number} of {split!r} has no text in {part_of.columns[part]!r}",
                "Remove or complete the row.",
            )
    if source.format == "prompt-completion":
        return Example(number, prompt=values["prompt"], completion=values["completion"], split=split)
    question = "\n\n".join(text for text in (values["instruction"], values.get("input")) if text)
    return Example(
        number,
        messages=({"role": "user", "content": question}, {"role": "assistant", "content": values["output"]}),
        split=split,
    )


def _checked_messages(messages: Any, number: int, source: DatasetSource, split: str) -> tuple[Message, ...]:
    shaped = isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        for message in messages
    )
    if not shaped:
        raise _bad(
            source,
            f"row {number} of {split!r} is not a list of messages with role and content",
            "Correct that row, or set dataset.format.",
        )
    # Columns of a dataset are uniform, so a field that only some messages have is None in all others.
    cleaned = tuple({key: value for key, value in message.items() if value is not None} for message in messages)
    if not cleaned or cleaned[-1]["role"] != "assistant" or not cleaned[-1].get("content"):
        raise _bad(
            source,
            f"row {number} of {split!r} does not end with a message of the assistant, so it has nothing to train on",
            "Remove the row or add the answer.",
        )
    return cleaned


def _bad(source: DatasetSource, what: str, hint: str) -> AirsmithError:
    return AirsmithError(ErrorKind.BAD_DATA, f"Dataset {source.id}: {what}.", hint)
