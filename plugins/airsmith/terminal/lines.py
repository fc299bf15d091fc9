"""The log of a run that this terminal drives: the run, each stage's end, and every line in between."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run


@dataclass(frozen=True)
class LinePrinter:
    """Prints what `run_sequence` tells."""

    console: Console

    def run(self, run: Run) -> None:
        """Name the run as soon as it is resolved."""
        self._print(f"run {run.uri}", "bold")

    def stage(self, pointer: StagePointer) -> None:
        """Say that a stage has its output."""
        what = "reused" if pointer.cached else "done"
        self._print(f"{pointer.stage}: {what} in {pointer.seconds:.1f} s", "green")

    def line(self, level: int, line: str) -> None:
        """Pass a line of a stage's log on."""
        style = "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else "dim"
        self._print(f"  {line}", style)

    def _print(self, text: str, style: str) -> None:
        self.console.print(Text(text, style), soft_wrap=True)
