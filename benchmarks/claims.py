"""Report a benchmark's results: a printed table, and a JSON file in `benchmarks/results`."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.arms import MEBIBYTE, Measured

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Goal:
    """A target for one metric.

    :param what: description of the metric, with its unit.
    :param most: the largest value that reaches the goal.
    :param least: the smallest value that reaches the goal.
    """

    what: str
    found: float
    most: float | None = None
    least: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the value is within the bounds."""
        return (self.most is None or self.found <= self.most) and (self.least is None or self.found >= self.least)


def report(claim: str, title: str, runs: Mapping[str, Sequence[Measured]], goals: Sequence[Goal], **facts: Any) -> None:
    """Print a benchmark's table and write `results/CLAIM.json`.

    :param claim: name of the benchmark.
    :param runs: the runs of each arm; the first arm is Airsmith.
    :param facts: further values for the JSON file, for example the size of the input.
    """
    console = Console()
    table = Table("arm", "median s", "spread s", "CPU s", "peak MiB", title=title, title_justify="left")
    for name, measured in runs.items():
        table.add_row(name, *_row(measured))
    console.print(table)
    for goal in goals:
        bound = f"at most {goal.most:g}" if goal.most is not None else f"at least {goal.least:g}"
        console.print(f"{'reached' if goal.reached else 'NOT REACHED'}: {goal.what}: {goal.found:.3g} ({bound})")
    content = {
        "claim": claim,
        "title": title,
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "facts": facts,
        "arms": {name: [vars(one) for one in measured] for name, measured in runs.items()},
        "goals": [{**vars(goal), "reached": goal.reached} for goal in goals],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{claim}.json").write_text(json.dumps(content, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Description of this machine."""
    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def _row(measured: Sequence[Measured]) -> tuple[str, str, str, str]:
    seconds = [one.seconds for one in measured]
    return (
        f"{statistics.median(seconds):.2f}",
        f"{min(seconds):.2f}–{max(seconds):.2f}",
        f"{statistics.median(one.cpu_seconds for one in measured):.1f}",
        f"{max(one.peak_rss_bytes for one in measured) / MEBIBYTE:.0f}",
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
