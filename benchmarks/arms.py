"""Time commands alternately, each as a process. The measured time includes writing its output to disk."""

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
    """One implementation to compare.

    :param command: a program and its arguments; if it fails, the benchmark stops.
    :param before: prepares a run, for example by removing the output of the previous one. Not timed.
    :param after: checks a run's output, and raises an error if it is wrong. Not timed.
    """

    name: str
    command: Sequence[str]
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One run of an arm.

    :param seconds: from its start until it has exited and its output is on disk.
    :param cpu_seconds: CPU time of the process and its descendants.
    :param peak_rss_bytes: peak memory of the largest process (`ru_maxrss`).
    :param written_bytes: written to file systems by all processes (`ru_oublock`).
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    written_bytes: int


def measure(arms: Sequence[Arm], repetitions: int = 5, warm_ups: int = 1) -> dict[str, list[Measured]]:
    """Run all arms alternately, so that changes of the machine's speed affect all of them.

    :param warm_ups: number of rounds that do not count.
    :returns: the counted runs of each arm.
    :raises RuntimeError: an arm fails; the message contains the last lines of its output.
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
            raise RuntimeError(f"{arm.name} failed with exit status {process.returncode}:\n{end}")
    return Measured(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, used.ru_oublock * 512)


def median_seconds(runs: Sequence[Measured]) -> float:
    """The median time of the runs."""
    return statistics.median(measured.seconds for measured in runs)


def paired_ratio(runs: Sequence[Measured], others: Sequence[Measured]) -> float:
    """The median over the rounds of the ratio of both times."""
    return statistics.median(measured.seconds / other.seconds for measured, other in zip(runs, others, strict=True))


def scratch_folder() -> Path:
    """The folder for outputs: `BENCHMARK_FOLDER`, or the system's temporary folder."""
    folder = Path(os.environ.get("BENCHMARK_FOLDER") or tempfile.gettempdir()) / "airsmith-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
