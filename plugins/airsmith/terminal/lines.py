"""The log of a local run: the run, each stage's result, and the stages' log lines."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run


@dataclass(frozen=True)
class LinePrinter:
    """Prints the events of `run_sequence`."""

    console: Console

    def run(self, run: Run) -> None:
        """Print the run's URI."""
        self._print(f"run {run.uri}", "bold")

    def stage(self, pointer: StagePointer) -> None:
        """Print that a stage has its output."""
        state = "reused" if pointer.cached else "done"
        self._print(f"{pointer.stage}: {state} in {pointer.seconds:.1f} s", "green")

    def line(self, level: int, line: str) -> None:
        """Print a line of a stage's log."""
        style = "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else "dim"
        self._print(f"  {line}", style)

    def _print(self, text: str, style: str) -> None:
        self.console.print(Text(text, style), soft_wrap=True)
