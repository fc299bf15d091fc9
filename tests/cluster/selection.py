"""Select cluster tests: the core set, and one shard of all others.

The gate runs the core set and the shard that the commit's hash determines, so successive commits run all shards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_SHARDS = 12
DEFAULT_SECONDS = 20.0
"""Assumed duration of a test that `durations.json` does not list."""

_FRACTION = re.compile(r"(\d+)/(\d+)")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Shard:
    """One of `count` shards; `number` starts at 1.

    :ivar source: where the choice comes from, for the report.
    """

    number: int
    count: int
    source: str = ""

    def __str__(self) -> str:
        return f"Shard {self.number} of {self.count}{self.source and f', from {self.source}'}"


def parse_shard(text: str) -> Shard:
    """Parse `3/12`, a commit's hash, or a hash with a number of shards: `1a2b3c4d/12`.

    :raises ValueError: if the text is none of these.
    """
    if fraction := _FRACTION.fullmatch(text):
        number, count = int(fraction[1]), int(fraction[2])
        if not 1 <= number <= count:
            raise ValueError(f"Shard {text} does not exist. The number must be between 1 and {count}.")
        return Shard(number, count)
    commit, _, count_text = text.partition("/")
    if _COMMIT.fullmatch(commit) and (not count_text or re.fullmatch("[1-9][0-9]*", count_text)):
        count = int(count_text or DEFAULT_SHARDS)
        return Shard(int(commit[:7], 16) % count + 1, count, f"commit {commit[:12]}")
    raise ValueError(f"{text!r} is neither K/N nor a commit's hash.")


def shards_of(tests: Sequence[str], count: int, durations: Mapping[str, float]) -> list[list[str]]:
    """Split tests into shards of about equal duration.

    Neighbors stay together, because the tests of a file share fixtures that take long to set up. The parameters of one
    function are never separated. The order of `tests` does not matter.

    :param tests: node ids.
    :param durations: seconds by function, as `function_of` names it.
    :returns: node ids by shard, sorted.
    """
    functions = sorted({function_of(test) for test in tests})
    seconds = {function: durations.get(function, DEFAULT_SECONDS) for function in functions}
    total, elapsed = sum(seconds.values()), 0.0
    shard_by_function = {}
    for function in functions:
        middle = elapsed + seconds[function] / 2
        shard_by_function[function] = min(int(middle / total * count), count - 1)
        elapsed += seconds[function]
    shards: list[list[str]] = [[] for _ in range(count)]
    for test in sorted(tests):
        shards[shard_by_function[function_of(test)]].append(test)
    return shards


def function_of(test: str) -> str:
    """A node id without its folder and parameters: `test_queue.py::test_…`."""
    return test.partition("[")[0].rpartition("/")[2]


def known_durations() -> dict[str, float]:
    """Measured seconds by function, set-up included; `make test-cluster DURATIONS=1` updates them."""
    content: dict[str, float] = json.loads(Path(__file__).with_name("durations.json").read_text(encoding="utf-8"))
    return content
