"""Fewer requests at once where more do harm; more again while all is well."""

from __future__ import annotations

import pytest

from airsmith_stages.mirroring.pace import Pace

RANGE = 8 * 2**20


class Link:
    """Requests on a link whose throughput depends on how many share it."""

    def __init__(self, most: int) -> None:
        self.now = 0.0
        self.pace = Pace(most, clock=lambda: self.now)

    def bring(self, rounds: int, bytes_per_second: float) -> None:
        """So many times, as many requests at once as there are slots, sharing the link."""
        for _ in range(rounds):
            begun = [self.pace.begin() for _ in range(self.pace.slots)]
            self.now += len(begun) * RANGE / bytes_per_second
            for request in begun:
                self.pace.end(request, RANGE)


def test_throughput_that_stays_leaves_the_slots_as_they_are() -> None:
    link = Link(12)
    link.bring(20, 100e6)
    assert link.pace.slots == 12


def test_throughput_that_collapses_halves_them_and_comes_back_step_by_step() -> None:
    link = Link(12)
    link.bring(4, 100e6)
    link.bring(2, 20e6)
    assert link.pace.slots == 6
    link.bring(2, 20e6)
    assert link.pace.slots == 7
    link.bring(40, 20e6)
    assert link.pace.slots == 12


def test_a_slower_round_that_is_no_collapse_changes_nothing() -> None:
    link = Link(12)
    link.bring(4, 100e6)
    link.bring(4, 60e6)
    assert link.pace.slots == 12


def test_what_brings_little_says_nothing_of_the_throughput() -> None:
    link = Link(4)
    link.bring(4, 100e6)
    for _ in range(50):
        begun = link.pace.begin()
        link.now += 10
        link.pace.end(begun, 0)
    link.bring(4, 100e6)
    assert link.pace.slots == 4


def test_a_busy_server_halves_them_once_however_many_it_refuses() -> None:
    link = Link(12)
    begun = [link.pace.begin() for _ in range(12)]
    link.now += 1
    for request in begun:
        link.pace.refused(request, 5)
        link.pace.end(request, 0)
    assert link.pace.slots == 6
    assert link.pace.pause_seconds() == 5
    link.now += 5
    assert link.pace.pause_seconds() == 0
    for _ in range(9):
        link.pace.refused(link.pace.begin(), 0)
        link.now += 1
    assert link.pace.slots == 1


def test_taken_slots_above_a_new_limit_are_not_given_out_again() -> None:
    pace = Pace(4)
    assert all(pace.take(wait=False) for _ in range(4))
    pace.refused(pace.begin(), 0)
    pace.give_back()
    pace.give_back()
    assert not pace.take(wait=False)
    pace.give_back()
    assert pace.take(wait=False)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_there_is_always_one(most: int) -> None:
    pace = Pace(most)
    for _ in range(5):
        pace.refused(pace.begin(), 0)
    assert pace.take(wait=True)
