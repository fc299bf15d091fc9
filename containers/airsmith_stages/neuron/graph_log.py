"""What `neuron_parallel_compile` says of the graphs that it compiled, read from what it prints.

Its exit code alone says little: of the versions of torch-neuronx some end with 0 whatever failed, and a process of its
pool that is killed takes its graphs out of the summary. The summary is a JSON object, after it three totals, as in
https://awsdocs-neuron.readthedocs-hosted.com/en/v2.26.0/frameworks/torch/torch-neuronx/api-reference-guide/training/pytorch-neuron-parallel-compile.html;
the lines of a compiler that fails are in https://github.com/aws-neuron/aws-neuron-sdk/issues/948, those of a pool in
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
"""What loggers around the tool put before each of its lines."""
_BEGIN = re.compile(r"\|\|(NEURON_)?PARALLEL_COMPILE\|\|: (\{)$")
_TOTAL_FAILED = re.compile(r"Total failed compilations: (\d+)")
_GRAPH = re.compile(r"MODULE_[\w+]+")
_FAILURE = re.compile(r"Failed compilation with \[.*?(MODULE_[\w+]+)\..*?\]: *(.*)")
_NOT_THE_CAUSE = re.compile(r"^\S+Z\s+|\s*-?\s*Please open a support ticket.*$")
_KILLED = re.compile(
    r"\[F137\]|neuronx-cc was forcibly killed|process pool was terminated abruptly|exit status (-9|137)\b"
)
"""How the compiler, or the pool that it works in, says that one of its processes was killed from outside."""


@dataclass(frozen=True)
class GraphLog:
    """What the log says.

    :ivar failed: names of the graphs that failed.
    :ivar failed_count: how many the tool counts; it may know no name.
    :ivar cause: what the compiler said of the first; empty where it said nothing.
    :ivar was_killed: whether a compiler was killed, which is what happens where the host's memory runs out.
    """

    failed: frozenset[str]
    failed_count: int
    cause: str
    was_killed: bool


def read_graph_log(path: Path) -> GraphLog:
    """Read what the tool has printed."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return _read(file)


def graph_name(path: str | Path) -> str:
    """The name of the graph that a path leads into; the path where it leads into none."""
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
            cause = cause or _NOT_THE_CAUSE.sub("", failure[2])
        was_killed = was_killed or _KILLED.search(line) is not None
    return GraphLog(frozenset(failed), failed_count, cause, was_killed)


def _failed_in(summary: list[str]) -> set[str]:
    """Names of the graphs that a summary says have failed; none where something else stands between its lines."""
    try:
        report: dict[str, dict[str, Any]] = json.loads("\n".join(summary))["compilation_report"]
    except (ValueError, KeyError):
        return set()
    return {graph_name(path) for path, result in report.items() if not result.get("status")}
