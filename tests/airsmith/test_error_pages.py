"""Every error kind has a page in docs/errors that is true: its retry and its example are those of the code."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from airsmith.errors import ErrorKind
from airsmith.errors.retries import RETRIES, Retry

REPOSITORY = Path(__file__).parents[2]
PAGES = REPOSITORY / "docs" / "errors"
HEADINGS = ["Cause", "What Airsmith does", "Remedy", "Example"]
SENTENCE = {
    Retry.NEVER: "Airsmith does not retry.",
    Retry.AT_ONCE: "Airsmith retries immediately.",
    Retry.BACK_OFF: "Airsmith retries with exponential backoff.",
}
KINDS = [kind.value for kind in ErrorKind]


def sections(kind: str) -> dict[str, str]:
    """The text below each heading of a page."""
    parts = re.split(r"^## (.+)\n", (PAGES / f"{kind}.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def messages() -> dict[str, re.Pattern[str]]:
    """Every text in the code, as a pattern that its values fit."""
    found = {}
    for folder in ("plugins", "containers/airsmith_stages"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                template = "".join(literals(node))
                if len(template.replace("\0", "")) > 10:
                    pattern = re.escape(template).replace(re.escape("\0"), ".+")
                    found[template.replace("\0", "…")] = re.compile(pattern)
    return found


def literals(node: ast.AST) -> Iterator[str]:
    """The text of a string or an f-string, NUL in the place of each value."""
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield str(part.value) if isinstance(part, ast.Constant) else "\0"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_each_kind_has_a_page_and_each_page_has_a_kind() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index") == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_the_four_sections_in_order(kind: str) -> None:
    assert list(sections(kind)) == HEADINGS
    assert all(text.strip() for text in sections(kind).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_states_the_retry_of_the_table(kind: str) -> None:
    assert sections(kind)["What Airsmith does"].strip().splitlines()[0] == SENTENCE[RETRIES[ErrorKind(kind)]]


def is_made_from(text: str, template: str, pattern: re.Pattern[str]) -> bool:
    """Whether `text` fits a template of which it quotes more than a few words."""
    return len(template.replace("…", "")) >= len(text) / 4 and pattern.fullmatch(text) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_page_is_a_message_of_the_code(kind: str) -> None:
    for text in re.findall(r"^(?:error|hint): (.+)$", sections(kind)["Example"], re.MULTILINE):
        if not any(is_made_from(text, *message) for message in messages().items()):
            pytest.fail(f"no message of the code: {text}\nnearest: {difflib.get_close_matches(text, messages(), n=2)}")
