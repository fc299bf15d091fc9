"""The table in docs/neuron.md lists exactly the files with Neuron-specific code, each with a reason."""

from __future__ import annotations

import re
from collections import Counter

from tests.support.repository import REPOSITORY, committed_files

PAGE = REPOSITORY / "docs" / "neuron.md"
HEADING = "## Files that depend on Neuron"

WORDS = re.compile(r"neuron|trainium|inferentia|xla(?!bel|rge)|\b(trn|inf)[12]", re.IGNORECASE)
"""Excludes `xlabel` of matplotlib, and `xlarge`."""
NOT_CODE = ("docs/", "zensical.toml", "tests/", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
GENERATED = (".lock",)

ROW = re.compile(r"^\| (?P<names>`[^|]+`) \| (?P<reason>[^|]*) \|$")


def neuron_files() -> list[str]:
    return [
        name
        for name in committed_files()
        if not name.startswith(NOT_CODE)
        and not name.endswith(GENERATED)
        and (WORDS.search(name) or WORDS.search((REPOSITORY / name).read_text(encoding="utf-8", errors="ignore")))
    ]


def rows_of_the_table() -> list[tuple[str, str]]:
    """Each file or folder of the table with its reason; those in one row share it."""
    section = PAGE.read_text(encoding="utf-8").partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    rows = [found for line in section.splitlines() if (found := ROW.match(line))]
    return [(name, row["reason"]) for row in rows for name in re.findall(r"`([^`]+)`", row["names"])]


def is_covered_by(name: str, file: str) -> bool:
    return file.startswith(name) if name.endswith("/") else file == name


def test_every_file_with_neuron_code_is_in_the_table():
    names = [name for name, _ in rows_of_the_table()]
    assert not [file for file in neuron_files() if not any(is_covered_by(name, file) for name in names)]


def test_every_entry_of_the_table_has_neuron_code():
    files = neuron_files()
    assert not [name for name, _ in rows_of_the_table() if not any(is_covered_by(name, file) for file in files)]


def test_a_folder_in_the_table_is_about_neuron_by_its_name():
    assert not [name for name, _ in rows_of_the_table() if name.endswith("/") and not WORDS.search(name)]


def test_every_entry_is_unique_and_has_a_reason():
    rows = rows_of_the_table()
    assert len(rows) > 1
    assert not [name for name, times in Counter(name for name, _ in rows).items() if times > 1]
    assert not [name for name, reason in rows if not reason.strip()]
