"""Time commands side by side: in turn, each a process of its own, what it wrote on the disk before the clock stops."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Arm:
    """One way to do the work.

    :param command: a program and its arguments; a failure of it ends the benchmark.
    :param before: makes the same start for every run, as removing the last run's output. Not timed.
    :param after: looks at what a run has made, and raises where it is not the work that was asked for. Not timed.
    """

    name: str
    command: Sequence[str]
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One run of an arm.

    :param seconds: from its start until it has ended and the disk has what it wrote.
    :param cpu_seconds: of it and all that it started.
    :param peak_rss_bytes: of the largest of its processes (`ru_maxrss`).
    :param written_bytes: to file systems, by all of them (`ru_oublock`).
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    written_bytes: int


def measure(arms: Sequence[Arm], repetitions: int = 5, warm_ups: int = 1) -> dict[str, list[Measured]]:
    """Run all arms in turn, again and again, so that what changes on the machine meanwhile changes all of them.

    :returns: the counted runs of each arm.
    :raises RuntimeError: with the end of an arm's output, where it fails.
    """
    runs: dict[str, list[Measured]] = {arm.name: [] for arm in arms}
    for round_number in range(-warm_ups, repetitions):
        for arm in arms:
            arm.before()
            os.sync()
            measured = run(arm)
            arm.after()
            print(
                f"{arm.name}: {measured.seconds:.2f} s, {measured.peak_rss_bytes / MEBIBYTE:.0f} MiB"
                + (" (warm-up)" if round_number < 0 else ""),
                file=sys.stderr,
                flush=True,
            )
            if round_number >= 0:
                runs[arm.name].append(measured)
    return runs


def run(arm: Arm) -> Measured:
    """Run an arm once."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            arm.command, env={**os.environ, **arm.environment}, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        os.sync()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            end = output.read()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{arm.name} failed with {process.returncode}:\n{end}")
    return Measured(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, used.ru_oublock * 512)


def median_seconds(runs: Sequence[Measured]) -> float:
    """The middle one of the times."""
    return statistics.median(measured.seconds for measured in runs)


def paired_ratio(runs: Sequence[Measured], others: Sequence[Measured]) -> float:
    """The middle one of the ratios of times, round by round."""
    return statistics.median(measured.seconds / other.seconds for measured, other in zip(runs, others, strict=True))


def scratch_folder() -> Path:
    """Where arms write: `BENCHMARK_FOLDER`, else the system's temporary folder."""
    folder = Path(os.environ.get("BENCHMARK_FOLDER") or tempfile.gettempdir()) / "airsmith-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
