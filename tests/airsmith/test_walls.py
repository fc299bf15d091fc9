"""The walls of docs/design.md hold: who imports whom, where pickles may be read, how large a file may grow."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "plugins" / "airsmith"
SOURCES = sorted(
    [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "containers").rglob("*.py"), *(ROOT / "demo").rglob("*.py")]
)

MAY_IMPORT_AIRFLOW = ("airsmith/pipeline/dag.py", "airsmith/runtimes/", "airsmith/ui/", "airsmith_plugin.py")
NEVER_AIRFLOW = ("airsmith/runtimes/process.py", "airsmith/runtimes/detached.py", "airsmith/runtimes/guard.py")
HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate"}
FLOORS = (
    {"recipe", "contracts", "artifacts", "registry", "settings", "hub"},
    {"backends"},
    {"runtimes", "serving"},
    {"pipeline", "terminal", "reference", "cli"},
)
MOST_LINES = 300
MOST_FUNCTION_LINES = 45


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Modules that a file imports, anywhere in it."""

    def found() -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module

    return frozenset(found())


def top_levels(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports_of(path)}


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "airsmith" and len(parts) > 1 else None


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_airflow_is_imported_where_the_design_says(path: Path) -> None:
    if "airflow" not in top_levels(path):
        return
    name = relative(path).removeprefix("plugins/")
    assert name.startswith(MAY_IMPORT_AIRFLOW)
    assert name not in NEVER_AIRFLOW


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_torch_stays_in_the_containers(path: Path) -> None:
    if top_levels(path) & HEAVY:
        assert relative(path).startswith("containers/") or relative(path) == "demo/tiny_llama.py"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=relative)
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    for module in imports_of(path):
        other = room(module)
        if other is not None:
            assert floor(other) <= floor(own), f"{own} imports {module}"
        assert not module.startswith(("airsmith_stages", "demo"))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_pickles_are_read_in_one_place(path: Path) -> None:
    if relative(path).endswith("torch_files.py"):
        return
    assert "pickle" not in top_levels(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES, "a concept in here wants a file of its own"
    assert path.stem not in ("utils", "helpers", "common", "misc")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines: a step in it wants a name"


def test_nothing_names_a_machine() -> None:
    """No absolute path of somebody's machine, no package index's address."""
    forbidden = re.compile(r"/(root|home/\w+|Users/\w+)/|pypi\.org|files\.pythonhosted|/opt/wheels")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix in (".png", ".jsonl") or path.name == Path(__file__).name or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not forbidden.search(line), f"{name}:{number}"
