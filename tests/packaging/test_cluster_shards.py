"""Every cluster test is in the core set or in exactly one shard."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.cluster.selection import DEFAULT_SHARDS, function_of, known_durations, parse_shard, shards_of

REPOSITORY = Path(__file__).parents[2]
SHARDS = 3


class Collector:
    """A pytest plugin that records the selected tests."""

    def __init__(self) -> None:
        self.tests: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tests = {item.nodeid for item in session.items}


def collected(*options: str) -> set[str]:
    """Node ids of the tests that pytest selects."""
    collector = Collector()
    arguments = ["tests/cluster", "--collect-only", "-qq", "-m", "not long", "-p", "no:cacheprovider", *options]
    assert pytest.main([f"--rootdir={REPOSITORY}", *arguments], plugins=[collector]) == pytest.ExitCode.OK
    return collector.tests


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("AIRSMITH_TEST_SHARD", raising=False)


def test_shards_and_the_core_set_are_disjoint_and_complete():
    parts = [collected("--core"), *(collected("--shard", f"{number + 1}/{SHARDS}") for number in range(SHARDS))]
    assert all(first.isdisjoint(second) for first, second in itertools.combinations(parts, 2))
    assert set.union(*parts) == collected()


def test_core_and_shard_together_select_both():
    assert collected("--core", "--shard", "2/3") == collected("--core") | collected("--shard", "2/3")


@pytest.mark.parametrize("count", [1, 2, 7, DEFAULT_SHARDS, 40])
def test_shards_contain_each_test_once(count: int):
    tests = [f"tests/cluster/test_{file}.py::test_{number}" for file in "abc" for number in range(7)]
    shards = shards_of(tests, count, {})
    assert len(shards) == count
    assert sorted(test for shard in shards for test in shard) == sorted(tests)
    assert shards_of(list(reversed(tests)), count, {}) == shards


def test_shards_have_about_equal_durations():
    tests = [f"tests/cluster/test_a.py::test_{number:02}" for number in range(40)]
    durations = {function_of(test): float(1 + index % 5) for index, test in enumerate(tests)}
    sums = [sum(durations[function_of(test)] for test in shard) for shard in shards_of(tests, 5, durations)]
    assert max(sums) - min(sums) <= 2 * max(durations.values())


def test_the_parameters_of_a_function_share_a_shard():
    tests = [f"tests/cluster/test_a.py::test_b[{number}]" for number in range(5)]
    assert [len(shard) for shard in shards_of(tests, 2, {}) if shard] == [5]


def test_a_commit_determines_its_shard():
    shards = {parse_shard(f"{number:07x}" + "0" * 33).number for number in range(100)}
    assert shards == set(range(1, DEFAULT_SHARDS + 1))
    assert str(parse_shard("abc1234/5")) == f"Shard {int('abc1234', 16) % 5 + 1} of 5, from commit abc1234"


@pytest.mark.parametrize("text", ["0/3", "4/3", "first", "1/0", ""])
def test_an_invalid_shard_is_rejected(text: str):
    with pytest.raises(ValueError, match=r"shard|Shard|neither|commit"):
        parse_shard(text)


def test_listed_durations_belong_to_existing_tests():
    functions = {function_of(test) for test in collected()}
    assert set(known_durations()) <= functions
