"""What knows Neuron stands in a table of docs/neuron.md: every such file with its reason, and no other."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "neuron.md"
HEADING = "## Files that depend on Neuron"

WORDS = re.compile(r"neuron|trainium|inferentia|xla(?!bel|rge)|\b(trn|inf)[12]", re.IGNORECASE)
"""Not `xlabel`, which is a word of the library that draws, and no `xlarge`."""
NOT_CODE = ("docs/", "zensical.toml", "tests/", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
GENERATED = (".lock",)

ROW = re.compile(r"^\| (?P<names>`[^|]+`) \| (?P<reason>[^|]*) \|$")


def committed_files() -> list[str]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def files_that_know_neuron() -> list[str]:
    return [
        name
        for name in committed_files()
        if not name.startswith(NOT_CODE)
        and not name.endswith(GENERATED)
        and (WORDS.search(name) or WORDS.search((REPOSITORY / name).read_text(encoding="utf-8", errors="ignore")))
    ]


def rows_of_the_table() -> list[tuple[str, str]]:
    """Each file or folder of the table with its reason; several of one row share it."""
    section = PAGE.read_text(encoding="utf-8").partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    rows = [found for line in section.splitlines() if (found := ROW.match(line))]
    return [(name, row["reason"]) for row in rows for name in re.findall(r"`([^`]+)`", row["names"])]


def is_named_by(name: str, file: str) -> bool:
    return file.startswith(name) if name.endswith("/") else file == name


def test_every_file_that_knows_neuron_is_in_the_table():
    named = [name for name, _ in rows_of_the_table()]
    assert not [file for file in files_that_know_neuron() if not any(is_named_by(name, file) for name in named)]


def test_everything_in_the_table_knows_neuron():
    knowing = files_that_know_neuron()
    assert not [name for name, _ in rows_of_the_table() if not any(is_named_by(name, file) for file in knowing)]


def test_no_folder_is_named_that_is_not_wholly_neurons():
    assert not [name for name, _ in rows_of_the_table() if name.endswith("/") and not WORDS.search(name)]


def test_every_row_is_there_once_and_says_why():
    rows = rows_of_the_table()
    assert len(rows) > 1
    assert not [name for name, times in Counter(name for name, _ in rows).items() if times > 1]
    assert not [name for name, reason in rows if not reason.strip()]
