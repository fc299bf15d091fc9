"""Fewer requests at once where more do harm; more again while all is well."""

from __future__ import annotations

import pytest

from airsmith_stages.mirroring.limiter import RequestLimiter

RANGE = 8 * 2**20


class Link:
    """Requests on a link whose throughput depends on how many share it."""

    def __init__(self, most: int) -> None:
        self.now = 0.0
        self.limiter = RequestLimiter(most, clock=lambda: self.now)

    def bring(self, rounds: int, bytes_per_second: float) -> None:
        """So many times, as many requests at once as there are slots, sharing the link."""
        for _ in range(rounds):
            begun = [self.limiter.start() for _ in range(self.limiter.slots)]
            self.now += len(begun) * RANGE / bytes_per_second
            for request in begun:
                self.limiter.finish(request, RANGE)


def test_throughput_that_stays_leaves_the_slots_as_they_are() -> None:
    link = Link(12)
    link.bring(20, 100e6)
    assert link.limiter.slots == 12


def test_throughput_that_collapses_halves_them_and_comes_back_step_by_step() -> None:
    link = Link(12)
    link.bring(4, 100e6)
    link.bring(2, 20e6)
    assert link.limiter.slots == 6
    link.bring(2, 20e6)
    assert link.limiter.slots == 7
    link.bring(40, 20e6)
    assert link.limiter.slots == 12


def test_a_slower_round_that_is_no_collapse_changes_nothing() -> None:
    link = Link(12)
    link.bring(4, 100e6)
    link.bring(4, 60e6)
    assert link.limiter.slots == 12


def test_what_brings_little_says_nothing_of_the_throughput() -> None:
    link = Link(4)
    link.bring(4, 100e6)
    for _ in range(50):
        begun = link.limiter.start()
        link.now += 10
        link.limiter.finish(begun, 0)
    link.bring(4, 100e6)
    assert link.limiter.slots == 4


def test_a_busy_server_halves_them_once_however_many_it_refuses() -> None:
    link = Link(12)
    begun = [link.limiter.start() for _ in range(12)]
    link.now += 1
    for request in begun:
        link.limiter.throttled(request, 5)
        link.limiter.finish(request, 0)
    assert link.limiter.slots == 6
    assert link.limiter.pause_seconds() == 5
    link.now += 5
    assert link.limiter.pause_seconds() == 0
    for _ in range(9):
        link.limiter.throttled(link.limiter.start(), 0)
        link.now += 1
    assert link.limiter.slots == 1


def test_taken_slots_above_a_new_limit_are_not_given_out_again() -> None:
    limiter = RequestLimiter(4)
    assert all(limiter.acquire(wait=False) for _ in range(4))
    limiter.throttled(limiter.start(), 0)
    limiter.release()
    limiter.release()
    assert not limiter.acquire(wait=False)
    limiter.release()
    assert limiter.acquire(wait=False)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_there_is_always_one(most: int) -> None:
    limiter = RequestLimiter(most)
    for _ in range(5):
        limiter.throttled(limiter.start(), 0)
    assert limiter.acquire(wait=True)
