"""Reads the results of `neuron_parallel_compile` from its output.

Its exit code is not sufficient: some versions of torch-neuronx exit with 0 after failures, and if a process of its pool
is killed, the summary lacks that process's graphs. The summary is a JSON object followed by three totals, as in
https://awsdocs-neuron.readthedocs-hosted.com/en/v2.26.0/frameworks/torch/torch-neuronx/api-reference-guide/training/pytorch-neuron-parallel-compile.html;
examples of a failed compiler are in https://github.com/aws-neuron/aws-neuron-sdk/issues/948, of a failed pool in
https://github.com/aws-neuron/aws-neuron-samples/issues/94. Not run on a device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PREFIX = re.compile(r"^INFO: ?")
"""Prefix that loggers add to each line of the tool."""
_BEGIN = re.compile(r"\|\|(NEURON_)?PARALLEL_COMPILE\|\|: (\{)$")
_TOTAL_FAILED = re.compile(r"Total failed compilations: (\d+)")
_GRAPH = re.compile(r"MODULE_[\w+]+")
_FAILURE = re.compile(r"Failed compilation with \[.*?(MODULE_[\w+]+)\..*?\]: *(.*)")
_NOISE = re.compile(r"^\S+Z\s+|\s*-?\s*Please open a support ticket.*$")
_KILLED = re.compile(
    r"\[F137\]|neuronx-cc was forcibly killed|process pool was terminated abruptly|exit status (-9|137)\b"
)
"""Messages of the compiler and its pool after one of their processes was killed."""


@dataclass(frozen=True)
class GraphLog:
    """The results in the log.

    :ivar failed: names of the graphs that failed.
    :ivar failed_count: the tool's count of failures, which may exceed the number of names.
    :ivar cause: the compiler's message for the first failure; empty if there is none.
    :ivar was_killed: whether a compiler was killed, which happens when the host's memory runs out.
    """

    failed: frozenset[str]
    failed_count: int
    cause: str
    was_killed: bool


def read_graph_log(path: Path) -> GraphLog:
    """Read the tool's output."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return _read(file)


def graph_name(path: str | Path) -> str:
    """The name of the graph in a path; the path itself if it contains none."""
    match = _GRAPH.search(str(path))
    return match[0] if match else str(path)


def _read(lines: Iterable[str]) -> GraphLog:
    failed: set[str] = set()
    failed_count, cause, was_killed = 0, "", False
    summary: list[str] = []
    for raw in lines:
        line = _PREFIX.sub("", raw.rstrip())
        if summary or _BEGIN.search(line):
            summary.append(line if summary else "{")
            if line == "}":
                failed |= _failed_in(summary)
                summary = []
            continue
        if total := _TOTAL_FAILED.search(line):
            failed_count += int(total[1])
        if failure := _FAILURE.search(line):
            failed.add(failure[1])
            cause = cause or _NOISE.sub("", failure[2])
        was_killed = was_killed or _KILLED.search(line) is not None
    return GraphLog(frozenset(failed), failed_count, cause, was_killed)


def _failed_in(summary: list[str]) -> set[str]:
    """Names of the failed graphs in a summary; empty if other output is mixed into its lines."""
    try:
        report: dict[str, dict[str, Any]] = json.loads("\n".join(summary))["compilation_report"]
    except (ValueError, KeyError):
        return set()
    return {graph_name(path) for path, result in report.items() if not result.get("status")}
