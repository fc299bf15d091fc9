"""Read a dataset's splits, and turn each row into a conversation or a prompt with its completion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.recipe.sources import COLUMN_PARTS, DatasetSource

Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One example: a conversation that ends with an answer, or a plain prompt with its completion.

    :param number: its row in the split, for messages.
    """

    number: int
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""

    @property
    def is_conversation(self) -> bool:
        """Whether a chat template renders it."""
        return bool(self.messages)

    def text(self) -> str:
        """All of its words, to compare it with others."""
        return "\n".join(str(message["content"]) for message in self.messages) or f"{self.prompt}\n{self.completion}"


@dataclass(frozen=True)
class Splits:
    """The examples to train and to validate on."""

    train: list[Example]
    validation: list[Example]


def read_splits(folder: Path, source: DatasetSource, cache: Path) -> Splits:
    """Read both splits of a dataset; the hold-out by fraction is drawn from the recipe's seed alone.

    :raises AirsmithError: `bad_data`, naming the file, split, column or row that is wrong.
    """
    rows = _load(folder, source, source.split, cache)
    if source.validation_split is not None:
        validation_rows = _load(folder, source, source.validation_split, cache)
    else:
        assert source.validation_fraction is not None
        drawn = _checked_size(rows, source).train_test_split(test_size=source.validation_fraction, seed=source.seed)
        rows, validation_rows = drawn["train"], drawn["test"]
    return Splits(
        list(_examples(rows, source, source.split)),
        list(_examples(validation_rows, source, source.validation_split or f"held-out part of {source.split}")),
    )


def _load(folder: Path, source: DatasetSource, split: str, cache: Path) -> datasets.Dataset:
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(str(folder), name=source.subset, split=split, cache_dir=str(cache))
    except Exception as error:
        _explain_broken_file(folder, source)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _bad(
            source, f"split {split!r} cannot be read: {reason}", "Check dataset.split, dataset.subset and the files."
        ) from error


def _explain_broken_file(folder: Path, source: DatasetSource) -> None:
    """Find the line that the reader stumbled over; its own message names no line."""
    for path in sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.json")]):
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"{path.relative_to(folder)} line {number}"
                raise _bad(source, f"{where} is no UTF-8 (byte {error.start})", "Save the file as UTF-8.") from None
            if path.suffix == ".jsonl" and text.strip():
                try:
                    json.loads(text)
                except ValueError as error:
                    where = f"{path.relative_to(folder)} line {number}"
                    raise _bad(source, f"{where} is no JSON: {error}", "Correct or remove that line.") from None


def _checked_size(rows: datasets.Dataset, source: DatasetSource) -> datasets.Dataset:
    if len(rows) < 2:
        raise _bad(source, f"split {source.split!r} has {len(rows)} rows, too few to hold some out", "Add examples.")
    return rows


def _examples(rows: datasets.Dataset, source: DatasetSource, split: str) -> Iterator[Example]:
    if len(rows) == 0:
        raise _bad(source, f"split {split!r} is empty", "Choose another split or add examples.")
    columns = _checked_columns(rows.column_names, source)
    for number, row in enumerate(rows):
        yield _example(number, row, columns, source, split)


def _checked_columns(existing: list[str], source: DatasetSource) -> dict[str, str]:
    """Which column plays which part.

    :returns: column by part, without the optional part that has none.
    """
    columns = {part: source.columns.get(part, part) for part in COLUMN_PARTS[source.format]}
    if "input" not in source.columns and columns.get("input") not in existing:
        columns.pop("input", None)
    missing = [column for column in columns.values() if column not in existing]
    if missing:
        raise _bad(
            source,
            f"there is no column {missing[0]!r}, which dataset.format {source.format!r} needs",
            f"Map the columns with dataset.columns; the dataset has {', '.join(existing)}.",
        )
    return columns


def _example(number: int, row: dict[str, Any], columns: dict[str, str], source: DatasetSource, split: str) -> Example:
    values = {part: row[column] for part, column in columns.items()}
    if source.format == "messages":
        return Example(number, messages=_checked_messages(values["messages"], number, source, split))
    for part, value in values.items():
        if part != "input" and not (isinstance(value, str) and value):
            raise _bad(source, f"row {number} of {split!r} has no text in {columns[part]!r}", "Remove or complete it.")
    if source.format == "prompt-completion":
        return Example(number, prompt=values["prompt"], completion=values["completion"])
    question = "\n\n".join(text for text in (values["instruction"], values.get("input")) if text)
    return Example(
        number,
        messages=({"role": "user", "content": question}, {"role": "assistant", "content": values["output"]}),
    )


def _checked_messages(messages: Any, number: int, source: DatasetSource, split: str) -> tuple[Message, ...]:
    shaped = isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        for message in messages
    )
    if not shaped:
        raise _bad(
            source,
            f"row {number} of {split!r} is no list of messages with role and content",
            "Correct that row, or set dataset.format.",
        )
    # Columns of a dataset are uniform, so a field that only some messages have is None in the others.
    cleaned = tuple({key: value for key, value in message.items() if value is not None} for message in messages)
    if not cleaned or cleaned[-1]["role"] != "assistant" or not cleaned[-1].get("content"):
        raise _bad(
            source,
            f"row {number} of {split!r} does not end with an assistant's turn, so there is nothing to learn",
            "Remove that row or add the answer.",
        )
    return cleaned


def _bad(source: DatasetSource, what: str, hint: str) -> AirsmithError:
    return AirsmithError(ErrorKind.BAD_DATA, f"Dataset {source.id}: {what}.", hint)
