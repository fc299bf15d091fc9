"""The Markdown of the repository: one sentence a line, links that lead somewhere, a menu that names every page."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.site.__main__ import nav_problems, read_project
from scripts.site.diagram import IMAGES, PALETTES, SOURCE, draw, read_bands

REPOSITORY = Path(__file__).parents[2]

CODE_BLOCK = re.compile(r"^( *)```.*?^\1```$|\A---\n.*?^---$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`]*`")
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|etc|approx|no|cf)\.$", re.IGNORECASE)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def markdown_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists()]


def prose(text: str) -> list[str]:
    """The lines outside of code, tables and HTML, without code spans."""
    without_code = CODE_SPAN.sub("code", CODE_BLOCK.sub("", text))
    return [line for line in without_code.splitlines() if not line.lstrip().startswith(("|", "<", "    "))]


def holds_two_sentences(line: str) -> bool:
    """Whether a sentence ends before the end of the line."""
    ends = re.finditer(r"[.!?][)*\"”]*(?= +[\[(*\"“]*[A-Z0-9])", line)
    return any(
        not ABBREVIATION.search(line[: end.start() + 1])
        and not re.fullmatch(r"\s*(?:[-*]|#+)?\s*(?:\*\*)?\d+[.]", line[: end.end()])
        and not re.fullmatch(r"\s*[-*] \*\*[^*]+\.\*\*", line[: end.end()])
        for end in ends
    )


def is_continued(line: str, following: str) -> bool:
    """Whether a sentence runs on in the next line of the same paragraph."""
    if not line.strip() or not following.strip() or line.startswith("#"):
        return False
    starts_anew = re.match(r"\s*(?:[-*>]|\d+\.|#|:::|!!!|\[|!\[)", following)
    return not starts_anew and not re.search(r"[.!?:;][)*\"”]*$", line.rstrip())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("One sentence. Another one.", True),
        ("One sentence, e.g. This.", False),
        ("- **A name.** The sentence after it.", False),
        ("1. The first step.", False),
        ("Version 3.1 is one sentence.", False),
    ],
)
def test_two_sentences_in_a_line_are_recognized(line: str, expected: bool) -> None:
    assert holds_two_sentences(line) is expected


def test_markdown_has_one_sentence_per_line() -> None:
    wrong = []
    for file in markdown_files():
        lines = prose(file.read_text(encoding="utf-8"))
        name = file.relative_to(REPOSITORY)
        wrong += [f"{name}: two sentences: {line}" for line in lines if holds_two_sentences(line)]
        wrong += [
            f"{name}: broken sentence: {line}" for line, following in pairwise(lines) if is_continued(line, following)
        ]
    assert not wrong, "\n".join(wrong)


def test_every_link_to_a_file_resolves() -> None:
    broken = []
    for file in markdown_files():
        text = CODE_SPAN.sub("", CODE_BLOCK.sub("", file.read_text(encoding="utf-8")))
        for address in (first or second for first, second in LINK.findall(text)):
            path = address.partition("#")[0]
            if path and not re.match(r"[a-z]+:", address) and not (file.parent / path).exists():
                broken.append(f"{file.relative_to(REPOSITORY)}: {address}")
    assert not broken


def test_the_menu_of_the_site_names_every_page_once() -> None:
    project = read_project()
    assert not nav_problems(project, REPOSITORY / project["docs_dir"])


@pytest.mark.parametrize("theme", PALETTES)
def test_the_drawn_architecture_matches_its_text(theme: str) -> None:
    bands = list(read_bands(SOURCE.read_text(encoding="utf-8")))
    drawn = (IMAGES / f"architecture-{theme}.svg").read_text(encoding="utf-8")
    assert drawn == draw(bands, PALETTES[theme]), "stale: run `make diagrams`"
